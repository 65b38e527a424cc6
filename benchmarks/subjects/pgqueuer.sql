-- What the benchmark asks of PgQueuer's tables beside the statements that its package makes.
-- https://github.com/janbjorge/pgqueuer

-- name: empty
truncate pgqueuer, pgqueuer_log restart identity;

-- name: state
select count(*) filter (where status = 'queued') as waiting,
       count(*) filter (where status = 'picked') as held,
       (select count(*) - count(distinct job_id) from pgqueuer_log where status = 'picked')
         as handed_out_again,
       0 as outcomes
  from pgqueuer;

-- name: settle
vacuum (analyze) pgqueuer, pgqueuer_log;
