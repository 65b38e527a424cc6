-- pgmq through its public functions, as its documentation calls them. Scripts of pgbench: in
-- prepared mode each :name is a parameter of one prepared statement.
-- https://pgxn.org/dist/pgmq/docs/api/sql/functions.html

-- name: create_queue
select pgmq.create('events');

-- name: send
select * from pgmq.send('events', :payload::jsonb, :headers::jsonb);

-- name: send_batch
select * from pgmq.send_batch('events', :payload::jsonb[], :headers::jsonb[]);

-- name: count
select count(*) from pgmq.q_events;
