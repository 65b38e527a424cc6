-- The check of a condition by itself, as append_v1 makes it, timed inside the server.

-- name: timer
-- Runs one check after another, each a call of matching_v1 with the arguments that append_v1
-- gives it, into an array as there; and answers how long each took and what it found.
-- The clock is read twice for each, which costs less than a tenth of a microsecond.
create or replace function pg_temp.time_checks(
    p_queries jsonb[], p_after bigint, p_up_to bigint, p_limit integer
) returns table (milliseconds double precision, conflicts integer)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_query jsonb;
    v_conflicts bigint[];
    v_started timestamptz;
begin
    foreach v_query in array p_queries loop
        v_started := clock_timestamp();
        v_conflicts := array(
            select counterfoil.matching_v1(
                1, v_query, null, p_after, p_up_to, p_limit, false));
        milliseconds := extract(epoch from clock_timestamp() - v_started) * 1e3;
        conflicts := cardinality(v_conflicts);
        return next;
    end loop;
end
$$;

-- name: run
select milliseconds, conflicts
from pg_temp.time_checks(
    %(queries)s::text[]::jsonb[], %(after)s::bigint, %(up_to)s::bigint, %(limit)s::integer);

-- name: pages
-- How many pages of tables and indexes one check looks at: what no cache makes smaller.
explain (analyze, buffers, timing off, summary off, format json)
select counterfoil.matching_v1(
    1, %(query)s::jsonb, null, %(after)s::bigint, %(up_to)s::bigint, %(limit)s::integer, false);
