-- What the benchmark asks of a consumer's tables. A delivery is a row only until its event is
-- done, so what was put out and has no row is done.

-- name: progress
select p.put_out - count(d.position) as done,
       count(*) filter (where d.state = 'held') as held,
       count(*) filter (where d.attempts = 0) as waiting,
       p.reached
  from counterfoil.consumers c
  join counterfoil.consumer_progress p
    on p.tenant_id = c.tenant_id and p.generation = c.generation
  left join counterfoil.deliveries d
    on d.tenant_id = c.tenant_id and d.generation = c.generation
 where c.tenant_id = 1 and c.name = %(name)s
 group by p.tenant_id, p.generation;

-- name: settle
vacuum (analyze) counterfoil.deliveries, counterfoil.consumer_progress;

-- How much was put out so far, by all consumers; and of each table the rows, live and dead, as
-- the statistics know them, and the bytes with all indexes.
-- name: bookkeeping
select t.relname as table, t.n_live_tup as live, t.n_dead_tup as dead,
       pg_total_relation_size(t.relid) as bytes, t.autovacuum_count as vacuums,
       (select coalesce(sum(p.put_out), 0)::bigint from counterfoil.consumer_progress p) as put_out
  from pg_stat_user_tables t
 where t.schemaname = 'counterfoil' and t.relname in ('deliveries', 'consumer_progress')
 order by t.relname;
