-- pgmq as a queue: its public functions, as its documentation calls them. Those with :names are
-- scripts of pgbench: in prepared mode each :name is a parameter of one prepared statement.
-- https://pgxn.org/dist/pgmq/docs/api/sql/functions.html

-- name: create_queues
select pgmq.create('events'), pgmq.create('outcomes');

-- name: empty
select pgmq.purge_queue('events'), pgmq.purge_queue('outcomes');

-- name: fill
select count(*) from pgmq.send_batch('events', %(payloads)s::jsonb[], %(headers)s::jsonb[]);

-- A message comes out whole; of several, each column as one array, since a script takes one row.
-- name: claim
select * from pgmq.read('events', :lease::integer, 1);

-- name: claim_batch
select array_agg(msg_id) as ids, array_agg(read_ct) as attempts, array_agg(enqueued_at) as sent_at,
       array_agg(message) as messages, array_agg(headers) as headers
  from pgmq.read('events', :lease::integer, :batch::integer);

-- Deleting fails, by a division by zero, where one of the messages was gone already.
-- name: acknowledge
select 1 / pgmq.delete('events', :msg_id::bigint)::integer;

-- name: acknowledge_batch
select 1 / (count(*) = :batch)::integer from pgmq.delete('events', :ids::bigint[]);

-- In one transaction, because in one statement: deleted, and as many outcomes sent.
-- name: acknowledge_with_outcome
select 1 / pgmq.delete('events', :msg_id::bigint)::integer,
       (select count(*) from pgmq.send('outcomes', :payload::jsonb, :outcome_headers::jsonb));

-- name: acknowledge_batch_with_outcomes
select 1 / (count(*) = :batch)::integer,
       (select count(*)
          from pgmq.send_batch('outcomes', :payload::jsonb[], :outcome_headers::jsonb[]))
  from pgmq.delete('events', :ids::bigint[]);

-- name: state
select count(*) filter (where read_ct = 0) as waiting,
       count(*) filter (where read_ct > 0) as held,
       count(*) filter (where read_ct > 1) as handed_out_again,
       (select count(*) from pgmq.q_outcomes) as outcomes
  from pgmq.q_events;

-- name: settle
vacuum (analyze) pgmq.q_events;
