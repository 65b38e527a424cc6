-- What becomes of deliveries that their holders do not finish: held for longer, given back, or
-- taken back when their leases have run out.

-- How long an event waits after an attempt that failed.
create function counterfoil.backoff_seconds(
    p_consumer counterfoil.consumers, p_failures integer
) returns numeric
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Beyond the limit after some attempts at the latest; the power of a large number is dear.
    return least(
        p_consumer.backoff_max_seconds,
        p_consumer.backoff_initial_seconds * p_consumer.backoff_factor ^ least(p_failures - 1, 30));
end
$$;

-- How an attempt ended, as it is kept until the event is done.
create function counterfoil.ended_attempt(
    p_delivery counterfoil.deliveries, p_ended_at timestamptz, p_reason text
) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(p_delivery.history, '[]') || jsonb_build_object(
        'attempt', p_delivery.attempts, 'holder', p_delivery.holder,
        'claimed_at', counterfoil.time_text(p_delivery.claimed_at),
        'ended_at', counterfoil.time_text(p_ended_at), 'reason', p_reason);
end
$$;

-- Does to these deliveries, which the caller has locked, what the requests of a group that name
-- them say: extend, release or give_back. What is locked stays where it is, so each row is found
-- by its place. Returns whether something became ready, or will, and when leases end now.
create function counterfoil.hold_or_give_back(
    p_tenant_id integer,
    p_name text,
    p_calls text[],
    p_more jsonb,
    p_status text[],
    p_held_requests integer[],
    p_places tid[],
    p_now timestamptz,
    out freed boolean,
    out lease_ends jsonb    -- {"<request, from 0>": time}
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_consumer counterfoil.consumers;
begin
    select * into v_consumer from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_name;
    update counterfoil.deliveries d set due_at = r.due_at
    from (
        select h.place, p_now + interval '1 second' * coalesce(
                   (p_more -> (h.request - 1) ->> 'seconds')::numeric, v_consumer.lease_seconds
               ) as due_at
        from unnest(p_held_requests, p_places) as h (request, place)
        where p_status[h.request] = 'done' and p_calls[h.request] = 'extend'
    ) as r
    where d.ctid = r.place;
    lease_ends := (
        select coalesce(jsonb_object_agg(r.nth - 1, counterfoil.time_text(
            p_now + interval '1 second' * coalesce(
                (p_more -> (r.nth::integer - 1) ->> 'seconds')::numeric,
                v_consumer.lease_seconds))), '{}')
        from unnest(p_calls, p_status) with ordinality as r (call, status, nth)
        where r.call = 'extend' and r.status = 'done');

    update counterfoil.deliveries d
    set state = r.state, due_at = case when r.state = 'delayed' then p_now + r.delay end,
        uncounted = case when r.reason is null then d.uncounted + 1 else d.uncounted end,
        history = case when r.reason is null then d.history
                       else counterfoil.ended_attempt(d, p_now, r.reason) end,
        holder = null, principal = null, claimed_at = null
    from (
        select r.*, case
            when r.reason is not null and r.failures >= v_consumer.attempts_max then 'exhausted'
            when r.delay > interval '0' then 'delayed'
            else 'ready' end as state
        from (
            select h.place, o.attempts - o.uncounted as failures, h.more ->> 'reason' as reason,
                   coalesce(
                       (h.more ->> 'seconds')::numeric,
                       case when h.more ->> 'reason' is null then 0
                            else counterfoil.backoff_seconds(
                                v_consumer, o.attempts - o.uncounted) end
                   ) * interval '1 second' as delay
            from (
                select h.place, p_more -> (h.request - 1) as more
                from unnest(p_held_requests, p_places) as h (request, place)
                where p_status[h.request] = 'done'
                  and p_calls[h.request] in ('release', 'give_back')
            ) as h
            cross join lateral (
                select o.attempts, o.uncounted from counterfoil.deliveries o
                where o.ctid = h.place
                offset 0
            ) as o
        ) as r
    ) as r
    where d.ctid = r.place;
    freed := found;
end
$$;

-- Takes back what is due: leases that have run out, and delays.
create function counterfoil.take_back_due(
    p_tenant_id integer,
    p_name text,
    p_due_low timestamptz   -- of its progress
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    -- It has its reason in core/limits.py (DUE_DELIVERIES).
    c_due constant integer := 1000;
    -- How far due_low stays behind the clock: longer than a statement may run.
    c_due_margin constant interval := '30 seconds';
    v_consumer counterfoil.consumers;
    v_now timestamptz := clock_timestamp();
    v_positions bigint[];
begin
    select * into v_consumer from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_name;
    v_positions := array(
        select d.position from counterfoil.deliveries d
        where d.tenant_id = p_tenant_id and d.generation = v_consumer.generation
          and d.due_at > p_due_low and d.due_at <= v_now
        order by d.due_at limit c_due
        for no key update skip locked);
    if v_positions <> '{}' then
        update counterfoil.deliveries d
        set state = case
                when d.state = 'held' and d.attempts - d.uncounted >= v_consumer.attempts_max
                then 'exhausted' else 'ready' end,
            history = case when d.state = 'held'
                then counterfoil.ended_attempt(d, d.due_at, 'The lease ran out.')
                else d.history end,
            due_at = null, holder = null, principal = null, claimed_at = null
        where d.ctid = any (counterfoil.rows_of_deliveries(
            p_tenant_id, v_consumer.generation, v_positions));
    end if;
    if cardinality(v_positions) < c_due and p_due_low < v_now - 2 * c_due_margin then
        -- Once in half a minute from the beginning: a commit that waits for its standby may
        -- have taken longer than the margin, and what it leaves must not be passed over.
        update counterfoil.consumer_progress p
        set due_low = least(v_now - c_due_margin, (
            select d.due_at - interval '1 microsecond' from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = v_consumer.generation
              and d.due_at > '-infinity'
            order by d.due_at limit 1))
        where p.tenant_id = p_tenant_id and p.generation = v_consumer.generation
          and exists (
              select from counterfoil.consumer_progress o
              where o.tenant_id = p_tenant_id and o.generation = v_consumer.generation
              for no key update skip locked);
    end if;
end
$$;
