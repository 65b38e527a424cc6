-- procrastinate: the statements of its own worker (sql/queries.sql of its package), each of which
-- calls one of its stored functions. Those with :names are scripts of pgbench.
-- https://github.com/procrastinate-org/procrastinate

-- name: empty
truncate procrastinate_jobs, procrastinate_events, procrastinate_periodic_defers restart identity;

-- name: register
select worker_id from procrastinate_register_worker_v1();

-- name: fill
select procrastinate_defer_jobs_v1(
         array_agg(row('events', 'consume', 0, null, null,
                       jsonb_build_object('payload', sent.payload, 'headers', sent.headers),
                       null)::procrastinate_job_to_defer_v1))
  from unnest(%(payloads)s::jsonb[], %(headers)s::jsonb[]) as sent (payload, headers);

-- name: claim
select id, status, task_name, priority, lock, queueing_lock, args, scheduled_at, queue_name,
       attempts, worker_id
  from procrastinate_fetch_job_v2('{events}'::varchar[], :worker);

-- Fails where the job is not being done any more. Jobs stay, as they do by default.
-- name: acknowledge
select procrastinate_finish_job_v1(:id, 'succeeded', false);

-- name: state
select count(*) filter (where status = 'todo') as waiting,
       count(*) filter (where status = 'doing') as held,
       (select count(*) - count(distinct job_id) from procrastinate_events where type = 'started')
         as handed_out_again,
       0 as outcomes
  from procrastinate_jobs;

-- name: settle
vacuum (analyze) procrastinate_jobs, procrastinate_events;
