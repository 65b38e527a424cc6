-- Handing out: claims, and what becomes of what was claimed. All of it without a book's head;
-- an acknowledgement that writes is an append (08_handing_in.sql).
--
-- One call serves a group of requests of one consumer, as append_v4 does of one book: those
-- that a process has waiting. They are judged as if they had come one after another, each all
-- or nothing; two that name the same delivery, or bear the same key, are told to come again.

-- One request, taken apart.
create type counterfoil.consumer_call as (
    call text,              -- claim, ack, extend, release, or give_back: whose claim it was has
                            -- gone, and these are its key and content
    principal text,
    key text,
    content_digest bytea,
    holder text,
    count integer,          -- claim: how many it takes at most
    seconds numeric,        -- extend: the new lease; release: the delay; null: the consumer's own
    reason text,
    tokens integer          -- how many tokens it names
);

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

-- Answers the requests of a group: one row for each delivery that was handed out, and a last
-- one, without a request, that holds all else as JSON:
--   {"status": "found", or "not_found" and nothing more,
--    "answers": {"<request, from 0>": {"status": "done" | "replayed" | "key_reused" | "again" |
--                "lost", "lost": [[generation, position, attempt], …], "lease_ends": time}, …},
--    "paused": …, "generation": …, "changed_by": the event that made or changed it last,
--    "behind": whether more is to be put out, and may be, as far as is known,
--    "held_back": why nothing more is put out (full or stalled), where that is so,
--    "next_due_seconds": when the next delivery is due, where a claim got less than it asked for,
--    "exhausted": whether something is to be set aside,
--    "freed": whether something became ready for whoever comes next,
--    "frees": whether what is done with may let others go: those of its keys, or for whom there
--             is room in flight then,
--    "unfinished": whether others hold something that may come back}
create function counterfoil.consume_v1(
    p_tenant_id integer,
    p_name text,
    -- [{"call", "principal", "key"?, "digest"?, "tokens"?: [[generation, position, attempt], …],
    --   "holder"?, "count"?, "seconds"?, "reason"?}, …]; the tokens of a claim are done
    p_requests jsonb,
    p_look_for_due boolean,         -- take back what is due
    p_lock_wait_milliseconds integer
) returns table (request integer, "position" bigint, attempt integer, lease_ends text, event text)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
    -- Each has its reason in core/limits.py (DUE_DELIVERIES, CLAIM_BYTES_MAX).
    c_due constant integer := 1000;
    c_claim_bytes_max constant integer := 16777216;
    -- How many steps of putting out one call takes, and how far due_low stays behind the clock:
    -- longer than a statement may run.
    c_steps constant integer := 4;
    c_due_margin constant interval := '30 seconds';
    v_consumer counterfoil.consumers;
    v_current counterfoil.consumers;        -- as it is under the lock of its progress
    v_progress counterfoil.consumer_progress;
    v_calls counterfoil.consumer_call[];
    v_status text[];
    v_tokens counterfoil.token[];
    v_held counterfoil.held_delivery[];
    v_found record;
    v_lost jsonb := '{}';
    v_again jsonb := '{}';          -- what claims that are replayed had been given
    v_now timestamptz;
    v_ends timestamptz;
    v_positions bigint[];
    v_next bigint[];
    v_asked integer;                -- how many the claims ask for
    v_wanted integer;               -- and how many of those may be in flight
    -- what is handed out, one array for each column: where its row is, and to which request
    v_attempts integer[];
    v_places tid[];
    v_requests integer[];
    v_texts text[];
    v_head bigint;
    v_reached bigint;
    v_behind boolean := false;
    v_put_out record;
    v_held_back text;
    v_short boolean := false;
    v_locked boolean := false;
    v_freed boolean := false;
    v_next_due timestamptz;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'consume_v1 must run at READ COMMITTED: what is committed while it waits must be seen'
            using errcode = 'invalid_transaction_state';
    end if;
    if counterfoil.current_tenant() is distinct from p_tenant_id then
        raise exception 'consume_v1 was called for tenant % in a transaction that is not that tenant''s',
            p_tenant_id using errcode = 'insufficient_privilege';
    end if;
    -- A lease that was answered is a lease that was flushed: a crash must not hand it out again.
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    perform set_config('lock_timeout', p_lock_wait_milliseconds::text, true);

    select * into v_consumer from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_name;
    if not found then
        return query select null::integer, null::bigint, null::integer, null::text,
                            '{"status": "not_found"}';
        return;
    end if;
    select * into v_progress from counterfoil.consumer_progress p
    where p.tenant_id = p_tenant_id and p.generation = v_consumer.generation;

    v_calls := array(
        select row(r.call, r.principal, r.key, decode(r.digest, 'hex'), r.holder, r.count,
                   r.seconds, r.reason, coalesce(jsonb_array_length(r.tokens), 0)
               )::counterfoil.consumer_call
        from rows from (jsonb_to_recordset(p_requests) as (
            call text, principal text, key text, digest text, holder text, count integer,
            seconds numeric, reason text, tokens jsonb)) with ordinality
            as r (call, principal, key, digest, holder, count, seconds, reason, tokens, nth)
        order by r.nth);
    v_status := array_fill(null::text, array[cardinality(v_calls)]);

    ---- What was asked for before ----------------------------------------------------

    -- One key is used by one call at a time, whatever process it came to.
    perform pg_advisory_xact_lock(p_tenant_id, k.hash)
    from (
        select distinct hashtext(c.principal || ' ' || c.key) as hash from unnest(v_calls) as c
        where c.key is not null
        order by 1
    ) as k;
    for v_found in
        select c.nth, c.call, k.answer,
               case when exists (
                   -- An append has used it: that was another request, whatever it was.
                   select from counterfoil.idempotency_keys i
                   where i.tenant_id = p_tenant_id and i.principal = c.principal and i.key = c.key
                   offset 0) then false
               else c.content_digest = k.content_digest end as same,
               row_number() over (partition by c.principal, c.key order by c.nth) as bearer
        from unnest(v_calls) with ordinality as c (
            call, principal, key, content_digest, holder, count, seconds, reason, tokens, nth)
        left join lateral (
            select k.content_digest, k.answer from counterfoil.consumer_calls k
            where k.tenant_id = p_tenant_id and k.principal = c.principal and k.key = c.key
            offset 0
        ) as k on true
        where c.key is not null
        order by c.nth
    loop
        v_status[v_found.nth] := case
            when v_found.bearer > 1 then 'again'
            when v_found.same is null then null
            when not v_found.same then 'key_reused'
            -- Whoever asked for the answer again has them now.
            when v_found.call = 'give_back' then
                case when v_found.answer ? 'asked_again' then 'replayed' end
            -- What it was to acknowledge is done; what it was to be given, it was not.
            when v_found.call = 'claim' and v_found.answer -> 'taken' = '[]' then 'acknowledged'
            else 'replayed'
        end;
        if v_status[v_found.nth] = 'replayed' and v_found.call = 'claim' then
            v_again := jsonb_set(v_again, array[v_found.nth::text], v_found.answer -> 'taken');
        end if;
    end loop;

    ---- What is named by tokens --------------------------------------------------------

    v_tokens := array(
        select row(r.nth, r.request ->> 'principal', (t.token ->> 0)::bigint,
                   (t.token ->> 1)::bigint, (t.token ->> 2)::integer)::counterfoil.token
        from jsonb_array_elements(p_requests) with ordinality as r (request, nth)
        cross join lateral jsonb_array_elements(r.request -> 'tokens') as t (token)
        where v_status[r.nth] is null);
    if v_tokens <> '{}' then
        for v_found in
            select distinct t.request
            from (
                select t.request, min(t.request) over (partition by t.generation, t.position) as first
                from unnest(v_tokens) as t
            ) as t
            where t.request > t.first
        loop
            v_status[v_found.request] := 'again';
        end loop;
        v_held := counterfoil.lock_held(
            p_tenant_id,
            array(select t::counterfoil.token from unnest(v_tokens) as t
                  where t.generation = v_consumer.generation and v_status[t.request] is null),
            true);
        -- The clock is read once the locks are had: a wait for them may have cost the lease.
        v_now := clock_timestamp();
        for v_found in
            select t.request, sum(t.named) as named, sum(t.held) as held
            from (
                select t.request, 1 as named, 0 as held from unnest(v_tokens) as t
                union all
                select h.request, 0, 1 from unnest(v_held) as h where h.due_at > v_now
            ) as t
            where v_status[t.request] is null
            group by t.request
        loop
            if v_found.named = v_found.held then
                v_status[v_found.request] := 'done';
            else
                v_status[v_found.request] := 'lost';
                v_lost := jsonb_set(v_lost, array[v_found.request::text], (
                    select jsonb_agg(jsonb_build_array(t.generation, t.position, t.attempt)
                                     order by t.generation, t.position)
                    from unnest(v_tokens) as t
                    where t.request = v_found.request and not exists (
                        select from unnest(v_held) as h
                        where h.request = t.request and h.generation = t.generation
                          and h.position = t.position and h.due_at > v_now)));
            end if;
        end loop;

        v_positions := array(
            select h.position from unnest(v_held) as h
            where v_status[h.request] = 'done' and v_calls[h.request].call in ('ack', 'claim'));
        if v_positions <> '{}' then
            v_next := '{}';
            if v_consumer.order_by is not null then
                select l.next_positions into v_next from counterfoil.lock_next_in_line(
                    p_tenant_id, v_consumer.generation, v_positions, true) as l;
            end if;
            perform counterfoil.finish_deliveries(
                p_tenant_id, v_consumer.generation, v_positions, v_next);
            v_freed := v_next <> '{}' or v_consumer.in_flight_max is not null;
        end if;

        -- What is locked stays where it is, so each row is found there: see lock_held.
        if exists (select from unnest(v_calls) as c where c.call = 'extend') then
            update counterfoil.deliveries d
            set due_at = v_now + coalesce(
                v_calls[h.request].seconds, v_consumer.lease_seconds) * interval '1 second'
            from unnest(v_held) as h
            where d.ctid = h.place
              and v_status[h.request] = 'done' and v_calls[h.request].call = 'extend';
        end if;

        if exists (
            select from unnest(v_calls) as c where c.call in ('release', 'give_back'))
        then
            update counterfoil.deliveries d
            set state = r.state, due_at = case when r.state = 'delayed' then v_now + r.delay end,
                uncounted = case when r.reason is null then d.uncounted + 1 else d.uncounted end,
                history = case when r.reason is null then d.history
                               else counterfoil.ended_attempt(d, v_now, r.reason) end,
                holder = null, principal = null, claimed_at = null
            from (
                select r.*, case
                    when r.reason is not null and r.failures >= v_consumer.attempts_max then 'exhausted'
                    when r.delay > interval '0' then 'delayed'
                    else 'ready' end as state
                from (
                    select h.place, o.attempts - o.uncounted as failures, v_calls[h.request].reason,
                           coalesce(
                               v_calls[h.request].seconds,
                               case when v_calls[h.request].reason is null then 0
                                    else counterfoil.backoff_seconds(
                                        v_consumer, o.attempts - o.uncounted) end
                           ) * interval '1 second' as delay
                    from unnest(v_held) as h
                    cross join lateral (
                        select o.attempts, o.uncounted from counterfoil.deliveries o
                        where o.ctid = h.place
                        offset 0
                    ) as o
                    where v_status[h.request] = 'done'
                       and v_calls[h.request].call in ('release', 'give_back')
                ) as r
            ) as r
            where d.ctid = r.place;
            v_freed := v_freed or found;
        end if;
    end if;

    ---- What is due --------------------------------------------------------------------

    if p_look_for_due then
        v_now := clock_timestamp();
        v_positions := array(
            select d.position from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = v_consumer.generation
              and d.due_at > v_progress.due_low and d.due_at <= v_now
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
        if cardinality(v_positions) < c_due and v_progress.due_low < v_now - 2 * c_due_margin then
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
    end if;

    ---- What is claimed ----------------------------------------------------------------

    v_positions := '{}';
    v_wanted := (
        select coalesce(sum(c.count), 0) from unnest(v_calls) with ordinality as c (
            call, principal, key, content_digest, holder, count, seconds, reason, tokens, nth)
        where c.call = 'claim'
          and (v_status[c.nth] in ('done', 'acknowledged') or v_status[c.nth] is null));
    if v_wanted > 0 and not v_consumer.paused then
        v_asked := v_wanted;
        if v_consumer.in_flight_max is not null then
            -- The count of what is held must not move under those who count it.
            perform from counterfoil.consumer_progress p
            where p.tenant_id = p_tenant_id and p.generation = v_consumer.generation
            for no key update;
            v_locked := true;
            v_now := clock_timestamp();
            -- What is due and locked may be about to be extended, in time: it counts.
            v_wanted := least(v_wanted, greatest(0, v_consumer.in_flight_max - (
                select count(*) from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = v_consumer.generation
                  and d.due_at > v_progress.due_low and d.state = 'held'
            ) + cardinality(array(
                select d.position from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = v_consumer.generation
                  and d.due_at > v_progress.due_low and d.due_at <= v_now and d.state = 'held'
                for key share skip locked))));
        end if;
        select coalesce(array_agg(d.position), '{}'), coalesce(array_agg(d.attempt), '{}'),
               coalesce(array_agg(d.place), '{}')
        into v_positions, v_attempts, v_places
        from (
            select d.position, d.attempts + 1 as attempt, d.ctid as place
            from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = v_consumer.generation
              and d.position >= v_progress.low and d.state = 'ready'
            order by d.position limit v_wanted
            for no key update skip locked
        ) as d;
        if cardinality(v_positions) < v_wanted then
            v_head := coalesce((
                select e.position from counterfoil.events e
                where e.tenant_id = p_tenant_id order by e.position desc limit 1), 0);
            if not v_locked then
                perform from counterfoil.consumer_progress p
                where p.tenant_id = p_tenant_id and p.generation = v_consumer.generation
                for no key update skip locked;
                v_locked := found;
            end if;
            -- Whoever changes what it reads holds its progress; so from here on that stays.
            select * into v_current from counterfoil.consumers c
            where c.tenant_id = p_tenant_id and c.name = p_name
              and c.generation = v_consumer.generation;
            if v_locked and found then
                for v_step in 1 .. c_steps loop
                    v_reached := (
                        select p.reached from counterfoil.consumer_progress p
                        where p.tenant_id = p_tenant_id and p.generation = v_consumer.generation);
                    exit when cardinality(v_positions) >= v_wanted or v_head <= v_reached;
                    select * into v_put_out from counterfoil.put_out(
                        p_tenant_id, v_current, v_head);
                    v_held_back := v_put_out.held_back;
                    exit when v_held_back is not null;
                    if v_put_out.events > 0 then
                        -- What was ready up to there is taken.
                        select v_positions || coalesce(array_agg(d.position), '{}'),
                               v_attempts || coalesce(array_agg(d.attempt), '{}'),
                               v_places || coalesce(array_agg(d.place), '{}')
                        into v_positions, v_attempts, v_places
                        from (
                            select d.position, d.attempts + 1 as attempt, d.ctid as place
                            from counterfoil.deliveries d
                            where d.tenant_id = p_tenant_id and d.generation = v_consumer.generation
                              and d.position > v_reached and d.state = 'ready'
                            order by d.position limit v_wanted - cardinality(v_positions)
                            for no key update skip locked
                        ) as d;
                    end if;
                end loop;
            end if;
            v_behind := v_held_back is null and v_head > (
                select p.reached from counterfoil.consumer_progress p
                where p.tenant_id = p_tenant_id and p.generation = v_consumer.generation);
        end if;
        -- Also where no more may be in flight: it is to be told when to come again.
        v_short := cardinality(v_positions) < v_asked;
    end if;

    if v_positions <> '{}' then
        -- Of what is too long for one answer, the rest stays ready.
        select array_agg(m.text order by m.nth) into v_texts
        from (
            select t.nth, e.text,
                   sum(octet_length(e.text)) over (order by t.nth) - octet_length(e.text) as before
            from unnest(v_positions) with ordinality as t (position, nth)
            cross join lateral (
                select counterfoil.event_text(e) as text from counterfoil.events e
                where e.tenant_id = p_tenant_id and e.position = t.position
                offset 0
            ) as e
        ) as m
        where m.before < c_claim_bytes_max;
        v_freed := v_freed or cardinality(v_texts) < cardinality(v_positions);
        -- Whose each of them is: the first claim has as many as it asks for, then the next.
        v_requests := array(
            select c.nth
            from unnest(v_calls) with ordinality as c (
                call, principal, key, content_digest, holder, count, seconds, reason, tokens, nth)
            cross join lateral generate_series(1, c.count)
            where c.call = 'claim'
              and (v_status[c.nth] in ('done', 'acknowledged') or v_status[c.nth] is null)
            order by c.nth
            limit cardinality(v_texts));
        v_now := clock_timestamp();
        v_ends := v_now + v_consumer.lease_seconds * interval '1 second';
        update counterfoil.deliveries d
        set state = 'held', attempts = t.attempt, due_at = v_ends, claimed_at = v_now,
            holder = v_calls[t.request].holder, principal = v_calls[t.request].principal
        from unnest(v_places, v_attempts, v_requests) as t (place, attempt, request)
        where d.ctid = t.place and t.request is not null;
        return query
            select t.request - 1, t.position, t.attempt, ends.text, t.text
            from (select counterfoil.time_text(v_ends) as text) as ends
            cross join unnest(v_positions, v_attempts, v_requests, v_texts)
                as t (position, attempt, request, text)
            where t.request is not null;
    end if;

    if v_again <> '{}' then
        v_now := clock_timestamp();
        return query
            select a.nth - 1, d.position, d.attempts, counterfoil.time_text(d.due_at),
                   counterfoil.event_text(e)
            from (
                select a.key::integer as nth, (t.token ->> 0)::bigint as generation,
                       (t.token ->> 1)::bigint as position, (t.token ->> 2)::integer as attempt
                from jsonb_each(v_again) as a
                cross join lateral jsonb_array_elements(a.value) as t (token)
            ) as a
            join counterfoil.deliveries d
                on d.tenant_id = p_tenant_id and d.generation = a.generation
                and d.position = a.position
            join counterfoil.events e on e.tenant_id = p_tenant_id and e.position = a.position
            where a.generation = v_consumer.generation and d.state = 'held'
              and d.attempts = a.attempt and d.principal = v_calls[a.nth].principal
              and d.due_at > v_now
            order by a.nth, d.position;
        update counterfoil.consumer_calls k
        set answer = k.answer || '{"asked_again": true}'
        from jsonb_object_keys(v_again) as a (nth)
        where k.tenant_id = p_tenant_id and k.principal = v_calls[a.nth::integer].principal
          and k.key = v_calls[a.nth::integer].key and not k.answer ? 'asked_again';
    end if;

    ---- What is remembered, and told ---------------------------------------------------

    insert into counterfoil.consumer_calls as k (
        tenant_id, principal, key, content_digest, answer, created_at)
    select p_tenant_id, c.principal, c.key, c.content_digest,
           jsonb_build_object('taken', coalesce(t.taken, '[]')), clock_timestamp()
    from unnest(v_calls) with ordinality as c (
        call, principal, key, content_digest, holder, count, seconds, reason, tokens, nth)
    left join (
        select t.request, jsonb_agg(
                   jsonb_build_array(v_consumer.generation, t.position, t.attempt)) as taken
        from unnest(v_positions, v_attempts, v_requests) as t (position, attempt, request)
        where t.request is not null and v_calls[t.request].key is not null
        group by t.request
    ) as t on t.request = c.nth
    where c.key is not null
      and (v_status[c.nth] = 'done' and c.call <> 'extend' or t.taken is not null)
    order by c.principal, c.key
    on conflict on constraint consumer_calls_pkey do update
    set answer = excluded.answer, created_at = excluded.created_at;

    if v_short then
        v_next_due := (
            select d.due_at from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = v_consumer.generation
              and d.due_at > v_progress.due_low
            order by d.due_at limit 1);
    end if;
    return query select null::integer, null::bigint, null::integer, null::text, jsonb_build_object(
        'status', 'found',
        'answers', coalesce((
            select jsonb_object_agg(s.nth - 1, jsonb_strip_nulls(jsonb_build_object(
                'status', s.status, 'lost', v_lost -> s.nth::text, 'lease_ends', case
                    when v_calls[s.nth].call = 'extend' and s.status = 'done' then
                        (select counterfoil.time_text(min(d.due_at))
                         from unnest(v_tokens) as t
                         join counterfoil.deliveries d
                             on d.tenant_id = p_tenant_id and d.generation = t.generation
                             and d.position = t.position
                         where t.request = s.nth) end)))
            from unnest(v_status) with ordinality as s (status, nth)
            where s.status is not null and s.status <> 'acknowledged'), '{}'),
        'paused', v_consumer.paused,
        'generation', v_consumer.generation,
        'changed_by', v_consumer.position,
        'freed', v_freed,
        'frees', v_consumer.order_by is not null or v_consumer.in_flight_max is not null,
        'behind', v_behind,
        'held_back', v_held_back,
        'next_due_seconds', extract(epoch from v_next_due - clock_timestamp()),
        'exhausted', exists (
            select from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = v_consumer.generation
              and d.state = 'exhausted'),
        'unfinished', v_short and exists (
            select from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = v_consumer.generation
              and d.position >= v_progress.low and d.state <> 'set_aside'))::text;
end
$$;
