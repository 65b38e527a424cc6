-- What PostgreSQL tells of itself while a cell is profiled.

-- name: extension
create extension if not exists pg_stat_statements;

-- name: reset
select pg_stat_statements_reset();

-- name: statements
-- The statements that took the longest in all, those inside of functions among them (then
-- `top_level` is false, and their time is part of their caller's). The profiler's own work
-- goes on in the maintenance database, and is left out with it.
select
    s.toplevel as top_level,
    s.calls,
    round(s.total_exec_time::numeric, 1)::float8 as total_milliseconds,
    round(s.mean_exec_time::numeric, 4)::float8 as mean_milliseconds,
    s.rows,
    s.wal_bytes::bigint as wal_bytes,
    regexp_replace(s.query, '\s+', ' ', 'g') as query
from pg_stat_statements as s
join pg_database as d on d.oid = s.dbid
where d.datname <> current_database()
order by s.total_exec_time desc
limit %(count)s;

-- name: waits
-- What each session that is at work waits for at this moment.
select
    coalesce(wait_event_type || ': ' || wait_event, 'on a processor, or waiting for one') as event,
    count(*) as sessions
from pg_stat_activity
where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid()
group by 1;
