-- Consumers from outside: how each stands, which need somebody to look after them, and what can
-- be cleared away.

-- How a consumer stands, as JSON. What is not put out yet is counted up to a limit.
create function counterfoil.consumer_text(c counterfoil.consumers) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    -- Each has its reason in core/limits.py (LAG_EVENTS_MAX, DEAD_LETTERS_MAX).
    c_lag_max constant integer := 10000;
    c_dead_letters_max constant integer := 10000;
    v_now timestamptz := clock_timestamp();
    v_progress counterfoil.consumer_progress;
    v_head bigint;
    v_held bigint;
    v_waiting bigint;
    v_oldest bigint;
    v_behind bigint[];
    v_set_aside bigint;
    v_left bigint;
begin
    select * into v_progress from counterfoil.consumer_progress p
    where p.tenant_id = c.tenant_id and p.generation = c.generation;
    v_head := coalesce((
        select e.position from counterfoil.events e
        where e.tenant_id = c.tenant_id order by e.position desc limit 1), 0);
    select count(*) filter (where d.state = 'held' and d.due_at > v_now),
           count(*) filter (where not (d.state = 'held' and d.due_at > v_now)), min(d.position)
    into v_held, v_waiting, v_oldest
    from counterfoil.deliveries d
    where d.tenant_id = c.tenant_id and d.generation = c.generation
      and d.position >= v_progress.low and d.state <> 'set_aside';
    v_behind := array(
        select counterfoil.matching_v1(
            c.tenant_id, c.query, null, v_progress.reached, v_head, c_lag_max, false));
    v_set_aside := (
        select count(*) from counterfoil.dead_letters l
        where l.tenant_id = c.tenant_id and l.consumer = c.name);
    v_left := v_progress.put_out - v_held - v_waiting;
    return json_build_object(
        'name', c.name, 'query', c.query, 'start', c.start, 'lease_seconds', c.lease_seconds,
        'attempts_max', c.attempts_max,
        'backoff', json_build_object(
            'initial_seconds', c.backoff_initial_seconds, 'factor', c.backoff_factor,
            'max_seconds', c.backoff_max_seconds),
        'order_by', c.order_by, 'in_flight_max', c.in_flight_max, 'dead_letters', c.dead_letters,
        'status', case when c.paused then 'paused'
                       when v_set_aside >= c_dead_letters_max then 'stalled'
                       else 'running' end,
        'position', v_progress.reached,
        'head', v_head,
        'lag', json_build_object(
            'events', v_held + v_waiting + cardinality(v_behind),
            'seconds', coalesce(round(greatest(0, extract(epoch from v_now - (
                select e.created_at from counterfoil.events e
                where e.tenant_id = c.tenant_id
                  and e.position = coalesce(v_oldest, v_behind[1])))), 3), 0),
            'at_least', cardinality(v_behind) = c_lag_max),
        'in_flight', v_held, 'waiting', v_waiting, 'set_aside', v_set_aside,
        'rate', round(greatest(0, (v_left - v_progress.before_left) / greatest(
            extract(epoch from v_now - v_progress.before_at), 1)), 2),
        'event_id', c.position, 'created_at', counterfoil.time_text(c.created_at),
        'created_by', c.created_by);
end
$$;

-- Consumers of all tenants that need somebody: with deliveries whose lease is over or that are to
-- be set aside, though nobody may be claiming; or (name null) with something to clear away.
create function counterfoil.consumers_in_need_v1()
returns table (tenant_id integer, name text)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
    -- A clock that is asked for each row cannot be looked up in an index.
    v_now timestamptz := clock_timestamp();
begin
    perform set_config('counterfoil.consumers', 'all', true);
    return query
        select c.tenant_id, c.name from counterfoil.consumers c
        where exists (
            select from counterfoil.deliveries d
            where d.tenant_id = c.tenant_id and d.generation = c.generation
              and d.due_at <= v_now
            offset 0)
        or exists (
            select from counterfoil.deliveries d
            where d.tenant_id = c.tenant_id and d.generation = c.generation
              and d.state = 'exhausted'
            offset 0);
    return query
        -- Of each tenant that has calls the oldest, from one tenant to the next.
        with recursive calling (tenant_id, created_at) as (
            (select k.tenant_id, k.created_at from counterfoil.consumer_calls k
             order by k.tenant_id, k.created_at limit 1)
            union all
            select following.* from calling
            cross join lateral (
                select k.tenant_id, k.created_at from counterfoil.consumer_calls k
                where k.tenant_id > calling.tenant_id
                order by k.tenant_id, k.created_at limit 1
            ) as following
        )
        select k.tenant_id, null from calling k where k.created_at < v_now - interval '11 minutes'
        union
        select p.tenant_id, null from counterfoil.consumer_progress p
        where not exists (
            select from counterfoil.consumers c
            where c.tenant_id = p.tenant_id and c.name = p.consumer and c.generation = p.generation);
    perform set_config('counterfoil.consumers', '', true);
end
$$;

-- Clears away what this transaction's tenant has left over: the deliveries of generations that
-- are over, and answers that nobody asks for any more. At most so many rows of each; returns
-- how many they were.
create function counterfoil.clear_consumers_v1(p_rows_max integer) returns integer
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_tenant_id integer := counterfoil.current_tenant();
    v_now timestamptz := clock_timestamp();
    v_over record;
    v_positions bigint[];
    v_rows integer := 0;
    v_deleted integer;
begin
    for v_over in
        select p.generation from counterfoil.consumer_progress p
        where p.tenant_id = v_tenant_id and not exists (
            select from counterfoil.consumers c
            where c.tenant_id = p.tenant_id and c.name = p.consumer and c.generation = p.generation)
        for update skip locked
    loop
        exit when v_rows >= p_rows_max;
        v_positions := array(
            select d.position from counterfoil.deliveries d
            where d.tenant_id = v_tenant_id and d.generation = v_over.generation
            order by d.position limit p_rows_max - v_rows
            for update skip locked);
        if v_positions = '{}' then
            delete from counterfoil.consumer_progress p
            where p.tenant_id = v_tenant_id and p.generation = v_over.generation
              and not exists (
                  select from counterfoil.deliveries d
                  where d.tenant_id = v_tenant_id and d.generation = v_over.generation);
        else
            perform counterfoil.finish_deliveries(
                v_tenant_id, v_over.generation, v_positions, '{}');
            v_rows := v_rows + cardinality(v_positions);
        end if;
    end loop;

    delete from counterfoil.consumer_calls k
    where k.tenant_id = v_tenant_id and (k.principal, k.key) in (
        select o.principal, o.key from counterfoil.consumer_calls o
        where o.tenant_id = v_tenant_id and o.created_at < v_now - interval '10 minutes'
        order by o.created_at limit p_rows_max
        for update skip locked);
    get diagnostics v_deleted = row_count;
    return v_rows + v_deleted;
end
$$;

-- All consumers of all tenants, up to a number.
create function counterfoil.every_consumer(p_limit integer) returns setof counterfoil.consumers
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('counterfoil.consumers', 'all', true);
    return query
        select c.* from counterfoil.consumers c order by c.tenant_id, c.name limit p_limit;
    perform set_config('counterfoil.consumers', '', true);
end
$$;

-- How consumers of all tenants stand, each with its tenant's name: for the operator's metrics.
create function counterfoil.consumer_states_v1(p_limit integer)
returns table (tenant_name text, state text)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_consumer counterfoil.consumers;
    v_before text := current_setting('counterfoil.tenant_id', true);
begin
    for v_consumer in
        select c.* from counterfoil.every_consumer(p_limit) as c
    loop
        -- Each is looked at as its tenant would.
        perform set_config('counterfoil.tenant_id', v_consumer.tenant_id::text, true);
        return query
            select b.name, counterfoil.consumer_text(v_consumer)
            from counterfoil.books b where b.tenant_id = v_consumer.tenant_id;
    end loop;
    perform set_config('counterfoil.tenant_id', coalesce(v_before, ''), true);
end
$$;
