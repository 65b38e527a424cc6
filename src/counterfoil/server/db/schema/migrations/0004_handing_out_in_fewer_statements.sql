-- Handing out with fewer statements: what is rare is looked for first, and has functions of its
-- own. A claim or an acknowledgement took a millisecond and a half of the database, most of it
-- for statements that had nothing to do.
--
-- The processes of the release before cannot claim from it: their door is gone. Stop them,
-- migrate, start the new ones.

-- squawk-ignore ban-drop-function
drop function counterfoil.consume_v1(integer, text, jsonb, boolean, integer);
-- squawk-ignore ban-drop-type
drop type counterfoil.consumer_call;
-- squawk-ignore ban-drop-function
drop function counterfoil.lock_held(integer, counterfoil.token[], boolean);

-- The deliveries that these tokens stand for, locked: those that are held, by this principal,
-- in this attempt, but for what others have locked. Whether the lease is over is to be asked
-- after this, by the clock of then. Nothing is waited for.
create function counterfoil.lock_held(
    p_tenant_id integer,
    p_tokens counterfoil.token[]
) returns counterfoil.held_delivery[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
    -- Each is looked up by itself, in this order: a join of the two would, without statistics,
    -- walk all deliveries that there are, once for each token.
    return array(
        select row(t.request, t.generation, t.position, d.due_at, d.keys, d.place
               )::counterfoil.held_delivery
        from (select t.* from unnest(p_tokens) as t order by t.generation, t.position) as t
        cross join lateral (
            select d.due_at, d.keys, d.ctid as place from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = t.generation
              and d.position = t.position and d.state = 'held' and d.attempts = t.attempt
              and d.principal = t.principal
            for update skip locked
        ) as d);
end
$$;

-- Calls that leave no event, and are asked for again under the same key: what they were answered
-- is remembered for a while (CALLS_REMEMBERED_SECONDS).

-- What is known of the requests of a group by their keys, each of which is used by one call at a
-- time from here on, whatever process that came to. By request:
--   null           nothing, or it has no key
--   replayed       it was done; `given` says what a claim was handed out
--   acknowledged   of a claim, what it was to acknowledge is done; it was handed out nothing
--   key_reused     its key was used for something else
--   again          an earlier one of this group has the same key
create function counterfoil.calls_before(
    p_tenant_id integer,
    p_calls text[],
    p_principals text[],
    p_more jsonb,
    out status text[],
    out given jsonb         -- {"<request, from 1>": [[generation, position, attempt], …]}
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
    v_found record;
begin
    status := array_fill(null::text, array[cardinality(p_calls)]);
    given := '{}';
    perform pg_advisory_xact_lock(p_tenant_id, k.hash)
    from (
        select distinct hashtext(c.principal || ' ' || (c.more ->> 'key')) as hash
        from rows from (unnest(p_principals), jsonb_array_elements(p_more)) as c (principal, more)
        where c.more ? 'key'
        order by 1
    ) as k;
    for v_found in
        select c.nth, c.call, k.answer,
               case when exists (
                   -- An append has used it: that was another request, whatever it was.
                   select from counterfoil.idempotency_keys i
                   where i.tenant_id = p_tenant_id and i.principal = c.principal and i.key = c.key
                   offset 0) then false
               else decode(c.digest, 'hex') = k.content_digest end as same,
               row_number() over (partition by c.principal, c.key order by c.nth) as bearer
        from rows from (
            unnest(p_calls), unnest(p_principals), jsonb_to_recordset(p_more) as (key text, digest text)
        ) with ordinality as c (call, principal, key, digest, nth)
        left join lateral (
            select k.content_digest, k.answer from counterfoil.consumer_calls k
            where k.tenant_id = p_tenant_id and k.principal = c.principal and k.key = c.key
            offset 0
        ) as k on true
        where c.key is not null
        order by c.nth
    loop
        status[v_found.nth] := case
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
        if status[v_found.nth] = 'replayed' and v_found.call = 'claim' then
            given := jsonb_set(given, array[v_found.nth::text], v_found.answer -> 'taken');
        end if;
    end loop;
end
$$;

-- Of what claims that came again had been given, what they still hold.
create function counterfoil.given_before(
    p_tenant_id integer,
    p_principals text[],
    p_generation bigint,
    p_given jsonb           -- {"<request, from 1>": [[generation, position, attempt], …]}
) returns table (request integer, deliveries integer, answer text)
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
    v_now timestamptz := clock_timestamp();
begin
    return query
        select a.nth, count(*)::integer, string_agg(counterfoil.delivery_text(
                   e.text, p_generation, d.position, d.attempts,
                   counterfoil.time_text(d.due_at)), ',' order by d.position)
        from (
            select a.key::integer as nth, (t.token ->> 0)::bigint as generation,
                   (t.token ->> 1)::bigint as position, (t.token ->> 2)::integer as attempt
            from jsonb_each(p_given) as a
            cross join lateral jsonb_array_elements(a.value) as t (token)
        ) as a
        -- Each by itself, as in consume_v2.
        cross join lateral (
            select d.position, d.attempts, d.due_at from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = p_generation
              and d.position = a.position and d.state = 'held' and d.attempts = a.attempt
              and d.principal = p_principals[a.nth] and d.due_at > v_now
            offset 0
        ) as d
        cross join lateral (
            select counterfoil.event_text(e) as text from counterfoil.events e
            where e.tenant_id = p_tenant_id and e.position = a.position
            offset 0
        ) as e
        where a.generation = p_generation
        group by a.nth;
end
$$;

-- Remembers what the requests of a group were answered.
create function counterfoil.remember_calls(
    p_tenant_id integer,
    p_calls text[],
    p_principals text[],
    p_more jsonb,
    p_status text[],
    p_generation bigint,
    -- What was handed out, and to which request, one array for each column.
    p_slots integer[], p_positions bigint[], p_attempts integer[],
    p_given jsonb           -- what claims that came again had been given, by request
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    insert into counterfoil.consumer_calls as k (
        tenant_id, principal, key, content_digest, answer, created_at)
    select p_tenant_id, c.principal, c.key, decode(c.digest, 'hex'),
           jsonb_build_object('taken', coalesce(t.taken, '[]')), clock_timestamp()
    from rows from (
        unnest(p_calls), unnest(p_principals), jsonb_to_recordset(p_more) as (key text, digest text)
    ) with ordinality as c (call, principal, key, digest, nth)
    left join (
        select t.request, jsonb_agg(
                   jsonb_build_array(p_generation, t.position, t.attempt)
                   order by t.position) as taken
        from unnest(p_slots, p_positions, p_attempts) as t (request, position, attempt)
        where t.position is not null
        group by t.request
    ) as t on t.request = c.nth
    where c.key is not null
      and (p_status[c.nth] = 'done' and c.call <> 'extend' or t.taken is not null)
    order by c.principal, c.key
    on conflict on constraint consumer_calls_pkey do update
    set answer = excluded.answer, created_at = excluded.created_at;
    update counterfoil.consumer_calls k set answer = k.answer || '{"asked_again": true}'
    where k.ctid = any (array(
        select o.ctid
        from jsonb_object_keys(p_given) as g (nth)
        cross join lateral (
            select o.ctid from counterfoil.consumer_calls o
            where o.tenant_id = p_tenant_id and o.principal = p_principals[g.nth::integer]
              and o.key = p_more -> (g.nth::integer - 1) ->> 'key'
            offset 0
        ) as o))
      and not k.answer ? 'asked_again';
end
$$;

-- What becomes of deliveries that their holders do not finish: held for longer, given back, or
-- taken back when their leases have run out.

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

-- Handing out: claims, and what becomes of what was claimed. All of it without a book's head;
-- an acknowledgement that writes is an append (08_handing_in.sql).
--
-- One call serves a group of requests of one consumer, as append_v4 does of one book: those
-- that a process has waiting. They are judged as if they had come one after another, each all
-- or nothing; two that name the same delivery, or bear the same key, are told to come again.
--
-- Most groups hold nothing but claims and acknowledgements without keys, which find all that they
-- name. For those, six short statements run: beginning a statement costs as much as what it does to
-- five rows. So what is asked for comes as arrays, not as JSON that has to be taken apart; and what
-- is rare has functions of its own, which are called where it is there.

-- A delivery as its holder is given it.
create function counterfoil.delivery_text(
    p_event text, p_generation bigint, p_position bigint, p_attempt integer, p_lease_ends text
) returns text
language sql stable parallel safe
return '{"event":' || p_event || ',"attempt":' || p_attempt
    || ',"lease_ends":"' || p_lease_ends
    || '","token":"' || lpad(to_hex(p_generation), 16, '0')
    || '.' || lpad(to_hex(p_position), 16, '0')
    || '.' || lpad(to_hex(p_attempt), 8, '0') || '"}';

-- Which requests of a group hold all that they name (done), and which have lost some of it (lost).
-- The caller has locked what is held, and has read the clock after that.
create function counterfoil.judge_holders(
    -- What was named, and what of it is held and until when, one array for each column.
    p_token_requests integer[], p_generations bigint[], p_positions bigint[], p_attempts integer[],
    p_generation bigint,
    p_held_requests integer[], p_held_positions bigint[], p_held_until timestamptz[],
    p_now timestamptz,
    inout status text[],    -- what is known of them before; only those without are judged
    out lost jsonb          -- {"<request, from 0>": [[generation, position, attempt], …]}
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
-- Arrays have no statistics: by any other join, each token could be held against all that is held.
set enable_hashjoin = on
set enable_nestloop = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_found record;
begin
    lost := '{}';
    for v_found in
        select t.request, bool_or(t.request > t.first) as later, jsonb_agg(
                   jsonb_build_array(t.generation, t.position, t.attempt)
                   order by t.generation, t.position
               ) filter (where t.generation <> p_generation or h.request is null) as lost
        from (
            select t.*, min(t.request) over (partition by t.generation, t.position) as first
            from unnest(p_token_requests, p_generations, p_positions, p_attempts)
                as t (request, generation, position, attempt)
            where status[t.request] is null
        ) as t
        left join (
            select h.request, h.position
            from unnest(p_held_requests, p_held_positions, p_held_until)
                as h (request, position, until)
            where h.until > p_now
        ) as h on h.request = t.request and h.position = t.position
        group by t.request
    loop
        if v_found.later then
            status[v_found.request] := 'again';
        elsif v_found.lost is null then
            status[v_found.request] := 'done';
        else
            status[v_found.request] := 'lost';
            lost := jsonb_set(lost, array[(v_found.request - 1)::text], v_found.lost);
        end if;
    end loop;
end
$$;

-- How many more may be in flight. The caller holds the consumer's progress: the count of what is
-- held must not move under those who count it.
create function counterfoil.room_in_flight(
    p_tenant_id integer, p_generation bigint, p_in_flight_max integer, p_due_low timestamptz
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
begin
    -- What is due and locked may be about to be extended, in time: it counts.
    return greatest(0, p_in_flight_max - (
        select count(*) from counterfoil.deliveries d
        where d.tenant_id = p_tenant_id and d.generation = p_generation
          and d.due_at > p_due_low and d.state = 'held'
    ) + cardinality(array(
        select d.position from counterfoil.deliveries d
        where d.tenant_id = p_tenant_id and d.generation = p_generation
          and d.due_at > p_due_low and d.due_at <= v_now and d.state = 'held'
        for key share skip locked)));
end
$$;

-- How many of these events, from the first, have at most so many bytes together, as written out:
-- one at least.
create function counterfoil.how_many_fit(
    p_tenant_id integer, p_positions bigint[], p_bytes_max integer
) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
    return greatest(1, (
        select count(*)
        from (
            select sum(octet_length(e.text)) over (order by t.nth) as bytes
            from unnest(p_positions) with ordinality as t (position, nth)
            cross join lateral (
                select counterfoil.event_text(e) as text from counterfoil.events e
                where e.tenant_id = p_tenant_id and e.position = t.position
                offset 0
            ) as e
        ) as t
        where t.bytes <= p_bytes_max));
end
$$;

-- Answers the requests of a group: for each that was handed out something one row, with
-- how many deliveries it holds and their JSON, with commas between them; and a last row, without
-- a request, that holds all else as JSON:
--   {"status": "found", or "not_found" and nothing more,
--    "statuses": [of each request: "done" | "replayed" | "key_reused" | "again" | "lost";
--                 null or "acknowledged": it is a claim, and answered by its deliveries alone],
--    "lost": {"<request, from 0>": [[generation, position, attempt], …]},
--    "lease_ends": {"<request, from 0>": time}, of extensions,
--    "paused": …, "generation": …, "changed_by": the event that made or changed it last,
--    "behind": whether more is to be put out, and may be, as far as is known,
--    "held_back": why nothing more is put out (full or stalled), where that is so,
--    "next_due_seconds": when the next delivery is due, where a claim got less than it asked for,
--    "exhausted": whether something is to be set aside, where that may have changed,
--    "freed": whether something became ready for whoever comes next,
--    "frees": whether what is done with may let others go: those of its keys, or for whom there
--             is room in flight then,
--    "unfinished": whether others hold something that may come back, where a claim went short}
create function counterfoil.consume_v2(
    p_tenant_id integer,
    p_name text,
    -- What each request does: claim, ack, extend, release, or give_back: whose claim it was has
    -- gone, and what is said in p_more is said of that; whose it is; how many tokens it names;
    -- and of a claim, who is to hold what it takes, and how many those are at most.
    p_calls text[], p_principals text[], p_named integer[], p_holders text[], p_counts integer[],
    -- What they name, one array for each part of a token: which request (from 1), and the three
    -- of the token. What a claim names is done.
    p_token_requests integer[], p_generations bigint[], p_positions bigint[], p_attempts integer[],
    -- Null, or what else is said of each: [{"key"?, "digest"?, "seconds"?: extend: the new lease,
    -- release: the delay, else the consumer's own; "reason"?}, …]
    p_more jsonb,
    p_look_for_due boolean,         -- take back what is due
    p_lock_wait_milliseconds integer
) returns table (request integer, deliveries integer, answer text)
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
    -- It has its reason in core/limits.py (CLAIM_BYTES_MAX).
    c_claim_bytes_max constant integer := 16777216;
    -- How many steps of putting out one call takes.
    c_steps constant integer := 4;
    v_setting text;
    -- of the consumer, as it was when the call came; and as it is under the lock of its progress
    v_generation bigint;
    v_changed_by bigint;
    v_ordered boolean;
    v_lease interval;
    v_in_flight_max integer;
    v_paused boolean;
    v_low bigint;
    v_due_low timestamptz;
    v_current counterfoil.consumers;
    v_status text[];
    v_lost jsonb := '{}';
    v_lease_ends jsonb := '{}';
    v_before jsonb := '{}';         -- what claims that are replayed had been given
    -- what is held of what they name, locked, one array for each column
    v_held_requests integer[];
    v_held_positions bigint[];
    v_held_until timestamptz[];
    v_held_places tid[];
    v_first_ends timestamptz;
    v_all boolean;                  -- whether that is all that they name, each of them once
    v_now timestamptz;
    v_next bigint[];
    v_slots integer[] := '{}';      -- which request the next delivery goes to, and those after it
    v_wanted integer;               -- how many of those may be in flight
    -- what is handed out, one array for each column
    v_positions bigint[] := '{}';
    v_attempts integer[] := '{}';
    v_places tid[] := '{}';
    v_ends text;
    v_given_to integer[];
    v_given integer[];
    v_answers text[];
    v_bytes bigint;
    v_from bigint;
    v_head bigint;
    v_reached bigint;
    v_steps integer := 0;
    v_behind boolean := false;
    v_held_back text;
    v_short boolean := false;
    v_locked boolean := false;
    v_freed boolean := false;
    v_unfinished boolean := false;
    v_exhausted boolean := false;
    v_next_due timestamptz;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'consume_v2 must run at READ COMMITTED: what is committed while it waits must be seen'
            using errcode = 'invalid_transaction_state';
    end if;
    if counterfoil.current_tenant() is distinct from p_tenant_id then
        raise exception 'consume_v2 was called for tenant % in a transaction that is not that tenant''s',
            p_tenant_id using errcode = 'insufficient_privilege';
    end if;
    -- A lease that was answered is a lease that was flushed: a crash must not hand it out again.
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        v_setting := set_config('synchronous_commit', 'on', true);
    end if;
    v_setting := set_config('lock_timeout', p_lock_wait_milliseconds::text, true);

    select c.generation, c.position, c.order_by is not null, c.lease_seconds * interval '1 second',
           c.in_flight_max, c.paused, p.low, p.due_low
    into v_generation, v_changed_by, v_ordered, v_lease, v_in_flight_max, v_paused, v_low, v_due_low
    from counterfoil.consumers c
    cross join lateral (
        select p.low, p.due_low from counterfoil.consumer_progress p
        where p.tenant_id = p_tenant_id and p.generation = c.generation
        offset 0
    ) as p
    where c.tenant_id = p_tenant_id and c.name = p_name;
    if not found then
        answer := '{"status": "not_found"}';
        return next;
        return;
    end if;
    v_status := array_fill(null::text, array[cardinality(p_calls)]);
    if p_more is not null then
        select b.status, b.given into v_status, v_before
        from counterfoil.calls_before(p_tenant_id, p_calls, p_principals, p_more) as b;
    end if;

    ---- What is named by tokens --------------------------------------------------------

    if p_positions <> '{}' then
        -- Each is looked up by itself, in this order: a join of the two would, without
        -- statistics, walk all deliveries that there are, once for each token.
        select array_agg(h.request), array_agg(h.position), array_agg(h.due_at),
               array_agg(h.place), min(h.due_at),
               count(distinct h.place) = cardinality(p_positions)
        into v_held_requests, v_held_positions, v_held_until, v_held_places, v_first_ends, v_all
        from (
            select t.request, t.position, d.due_at, d.place
            from (
                select t.request, t.position, t.attempt
                from unnest(p_token_requests, p_generations, p_positions, p_attempts)
                    as t (request, generation, position, attempt)
                where t.generation = v_generation and v_status[t.request] is null
                order by t.position
            ) as t
            cross join lateral (
                select d.due_at, d.ctid as place from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = v_generation
                  and d.position = t.position and d.state = 'held' and d.attempts = t.attempt
                  and d.principal = p_principals[t.request]
                for update
            ) as d
        ) as h;
        -- The clock is read once the locks are had: a wait for them may have cost the lease.
        v_now := clock_timestamp();
        v_all := v_all and v_first_ends > v_now;
        if v_all then
            for v_nth in 1 .. cardinality(p_calls) loop
                if p_named[v_nth] > 0 then
                    v_status[v_nth] := 'done';
                end if;
            end loop;
        else
            select j.status, j.lost into v_status, v_lost
            from counterfoil.judge_holders(
                p_token_requests, p_generations, p_positions, p_attempts, v_generation,
                v_held_requests, v_held_positions, v_held_until, v_now, v_status) as j;
        end if;
        if p_calls && array['extend', 'release', 'give_back'] then
            select o.freed, o.lease_ends into v_freed, v_lease_ends
            from counterfoil.hold_or_give_back(
                p_tenant_id, p_name, p_calls, p_more, v_status, v_held_requests, v_held_places,
                v_now) as o;
            v_all := false;
        end if;
        if not v_all then
            select array_agg(h.position), array_agg(h.place) into v_held_positions, v_held_places
            from unnest(v_held_requests, v_held_positions, v_held_places)
                as h (request, position, place)
            where v_status[h.request] = 'done' and p_calls[h.request] in ('ack', 'claim');
        end if;
        if v_held_positions <> '{}' then
            if v_ordered then
                v_next := (
                    select l.next_positions from counterfoil.lock_next_in_line(
                        p_tenant_id, v_generation, v_held_positions, true) as l);
                perform counterfoil.finish_deliveries(
                    p_tenant_id, v_generation, v_held_positions, v_next);
                v_freed := v_freed or v_next <> '{}';
            else
                -- What is locked stays where it is.
                delete from counterfoil.deliveries d where d.ctid = any (v_held_places);
            end if;
            v_freed := v_freed or v_in_flight_max is not null;
        end if;
    end if;

    ---- What is claimed ----------------------------------------------------------------

    if p_look_for_due then
        perform counterfoil.take_back_due(p_tenant_id, p_name, v_due_low);
    end if;
    for v_nth in 1 .. cardinality(p_calls) loop
        -- Whose each of them is: the first claim has as many as it asks for, then the next.
        if p_counts[v_nth] > 0
           and (v_status[v_nth] is null or v_status[v_nth] in ('done', 'acknowledged'))
        then
            v_slots := v_slots || array_fill(v_nth, array[p_counts[v_nth]]);
        end if;
    end loop;
    if v_slots <> '{}' and not v_paused then
        v_wanted := cardinality(v_slots);
        if v_in_flight_max is not null then
            perform from counterfoil.consumer_progress p
            where p.tenant_id = p_tenant_id and p.generation = v_generation
            for no key update;
            v_locked := true;
            v_wanted := least(v_wanted, counterfoil.room_in_flight(
                p_tenant_id, v_generation, v_in_flight_max, v_due_low));
        end if;
        v_from := v_low;
        while cardinality(v_positions) < v_wanted loop
            select v_positions || coalesce(array_agg(d.position), '{}'),
                   v_attempts || coalesce(array_agg(d.attempt), '{}'),
                   v_places || coalesce(array_agg(d.place), '{}')
            into v_positions, v_attempts, v_places
            from (
                select d.position, d.attempts + 1 as attempt, d.ctid as place
                from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = v_generation
                  and d.position >= v_from and d.state = 'ready'
                order by d.position limit v_wanted - cardinality(v_positions)
                for no key update skip locked
            ) as d;
            exit when cardinality(v_positions) = v_wanted or v_steps = c_steps;

            -- What was ready is taken: more is put out, by whoever gets the progress.
            if v_steps = 0 then
                v_head := coalesce((
                    select e.position from counterfoil.events e
                    where e.tenant_id = p_tenant_id order by e.position desc limit 1), 0);
                if not v_locked then
                    perform from counterfoil.consumer_progress p
                    where p.tenant_id = p_tenant_id and p.generation = v_generation
                    for no key update skip locked;
                    v_locked := found;
                end if;
                -- Whoever changes what it reads holds its progress; so from here on that stays.
                select * into v_current from counterfoil.consumers c
                where c.tenant_id = p_tenant_id and c.name = p_name
                  and c.generation = v_generation;
                v_locked := v_locked and found;
            end if;
            v_steps := v_steps + 1;
            v_reached := (
                select p.reached from counterfoil.consumer_progress p
                where p.tenant_id = p_tenant_id and p.generation = v_generation);
            exit when not v_locked or v_head <= v_reached;
            v_held_back := (
                select f.held_back from counterfoil.put_out(p_tenant_id, v_current, v_head) as f);
            exit when v_held_back is not null;
            -- What was ready up to there is taken.
            v_from := v_reached + 1;
        end loop;
        -- Also where no more may be in flight: it is to be told when to come again.
        v_short := cardinality(v_positions) < cardinality(v_slots);
    end if;
    if v_positions <> '{}' then
        v_now := clock_timestamp();
        v_ends := counterfoil.time_text(v_now + v_lease);
        loop
            v_slots := v_slots[: cardinality(v_positions)];
            select array_agg(g.request), array_agg(g.deliveries), array_agg(g.answer), sum(g.bytes)
            into v_given_to, v_given, v_answers, v_bytes
            from (
                select t.request, count(*) as deliveries, sum(octet_length(e.text)) as bytes,
                       string_agg(counterfoil.delivery_text(
                           e.text, v_generation, t.position, t.attempt, v_ends), ','
                           order by t.position) as answer
                from unnest(v_slots, v_positions, v_attempts) as t (request, position, attempt)
                cross join lateral (
                    select counterfoil.event_text(e) as text from counterfoil.events e
                    where e.tenant_id = p_tenant_id and e.position = t.position
                    offset 0
                ) as e
                group by t.request
            ) as g;
            exit when v_bytes <= c_claim_bytes_max or cardinality(v_positions) = 1;
            -- Of what is too long for one answer, the rest stays ready.
            v_positions := v_positions[: counterfoil.how_many_fit(
                p_tenant_id, v_positions, c_claim_bytes_max)];
            v_freed := true;
        end loop;
        update counterfoil.deliveries d
        set state = 'held', attempts = t.attempt, due_at = v_now + v_lease, claimed_at = v_now,
            holder = p_holders[t.request], principal = p_principals[t.request]
        from unnest(v_slots, v_attempts, v_places) as t (request, attempt, place)
        where d.ctid = t.place and t.request is not null;
        for v_nth in 1 .. cardinality(v_given_to) loop
            request := v_given_to[v_nth] - 1;
            deliveries := v_given[v_nth];
            answer := v_answers[v_nth];
            return next;
        end loop;
    end if;

    ---- What is remembered, and told ---------------------------------------------------

    if p_more is not null then
        return query
            select g.request - 1, g.deliveries, g.answer
            from counterfoil.given_before(p_tenant_id, p_principals, v_generation, v_before) as g;
        perform counterfoil.remember_calls(
            p_tenant_id, p_calls, p_principals, p_more, v_status, v_generation, v_slots,
            v_positions, v_attempts, v_before);
    end if;
    if v_short then
        v_next_due := (
            select d.due_at from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = v_generation
              and d.due_at > v_due_low
            order by d.due_at limit 1);
        v_unfinished := exists (
            select from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = v_generation
              and d.position >= v_low and d.state <> 'set_aside');
    end if;
    if p_look_for_due or 'release' = any (p_calls) then
        v_exhausted := exists (
            select from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = v_generation
              and d.state = 'exhausted');
    end if;
    if v_steps > 0 and v_held_back is null then
        v_behind := v_head > (
            select p.reached from counterfoil.consumer_progress p
            where p.tenant_id = p_tenant_id and p.generation = v_generation);
    end if;
    request := null;
    deliveries := null;
    answer := json_build_object(
        'status', 'found',
        'statuses', v_status,
        'lost', v_lost,
        'lease_ends', v_lease_ends,
        'paused', v_paused,
        'generation', v_generation,
        'changed_by', v_changed_by,
        'freed', v_freed,
        'frees', v_ordered or v_in_flight_max is not null,
        'behind', v_behind,
        'held_back', v_held_back,
        'next_due_seconds', extract(epoch from v_next_due - clock_timestamp()),
        'exhausted', v_exhausted,
        'unfinished', v_unfinished)::text;
    return next;
end
$$;

-- Of the requests of a group of appends that hand in what they hold: which have all of it,
-- locked, with those who are next in line. The caller holds the book's head, so nothing is
-- waited for; who is not among these is looked at alone (hand_in_fault).
create or replace function counterfoil.holders_in_group(
    p_tenant_id integer,
    p_tokens counterfoil.token[]
) returns integer[]
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
    v_held counterfoil.held_delivery[];
    v_now timestamptz;
    v_line record;
    v_busy bigint[] := '{}';
begin
    v_held := counterfoil.lock_held(p_tenant_id, p_tokens);
    v_now := clock_timestamp();
    for v_line in
        select h.generation, array_agg(h.position) as positions from unnest(v_held) as h
        where h.keys <> '{}' group by h.generation
    loop
        -- Where one is locked, all of this generation look for themselves.
        if not (select l.complete from counterfoil.lock_next_in_line(
            p_tenant_id, v_line.generation, v_line.positions, false) as l)
        then
            v_busy := v_busy || v_line.generation;
        end if;
    end loop;
    -- Counted, not joined: each token would be held against all that is held.
    return array(
        select t.request
        from (
            select t.request, 1 as named, 0 as held, row_number() over (
                       partition by t.generation, t.position order by t.request) as bearer
            from unnest(p_tokens) as t
            union all
            select h.request, 0, 1, 1 from unnest(v_held) as h
            where h.due_at > v_now and h.generation <> all (v_busy)
        ) as t
        group by t.request
        having sum(t.named) = sum(t.held) and max(t.bearer) = 1);
end
$$;

-- Why one request cannot hand in what it names: null, row_busy, lease_lost or
-- consumer_not_found. Under the head.
create or replace function counterfoil.hand_in_fault(
    p_tenant_id integer,
    p_hands_in jsonb,
    p_tokens counterfoil.token[]
) returns text
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
    v_held counterfoil.held_delivery[] := counterfoil.lock_held(p_tenant_id, p_tokens);
    v_now timestamptz := clock_timestamp();
    v_line record;
    v_generation bigint;
begin
    select c.generation into v_generation from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_hands_in ->> 'consumer';
    if not found then
        return 'consumer_not_found';
    elsif exists (select from unnest(p_tokens) as t where t.generation <> v_generation)
       or exists (select from unnest(v_held) as h where h.due_at <= v_now)
    then
        return 'lease_lost';
    elsif cardinality(v_held) < cardinality(p_tokens) then
        -- Somebody has locked it, or it is not held in this attempt any more.
        return case when (
            select count(*)
            from unnest(p_tokens) as t
            join counterfoil.deliveries d
                on d.tenant_id = p_tenant_id and d.generation = t.generation
                and d.position = t.position
            where d.state = 'held' and d.attempts = t.attempt and d.principal = t.principal
              and d.due_at > v_now
        ) = cardinality(p_tokens) then 'row_busy' else 'lease_lost' end;
    end if;
    for v_line in
        select h.generation, array_agg(h.position) as positions from unnest(v_held) as h
        where h.keys <> '{}' group by h.generation
    loop
        if not (select l.complete from counterfoil.lock_next_in_line(
            p_tenant_id, v_line.generation, v_line.positions, false) as l)
        then
            return 'row_busy';
        end if;
    end loop;
    return null;
end
$$;

-- Takes out what stored requests handed in. Their rows are locked, and those behind them.
create or replace function counterfoil.hand_in(p_tenant_id integer, p_tokens counterfoil.token[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    v_done record;
    v_alone bigint[];
    v_positions bigint[];
    v_next bigint[];
begin
    for v_done in
        select t.generation, array_agg(t.position) as positions from unnest(p_tokens) as t
        group by t.generation
    loop
        -- Who stands in no line lets nobody go.
        with gone as (
            delete from counterfoil.deliveries d
            where d.ctid = any (counterfoil.rows_of_deliveries(
                    p_tenant_id, v_done.generation, v_done.positions))
              and d.keys = '{}'
            returning d.position
        )
        select coalesce(array_agg(g.position), '{}') into v_alone from gone g;
        continue when cardinality(v_alone) = cardinality(v_done.positions);
        v_positions := array(
            select p.position from unnest(v_done.positions) as p (position)
            where p.position <> all (v_alone));
        select l.next_positions into v_next from counterfoil.lock_next_in_line(
            p_tenant_id, v_done.generation, v_positions, false) as l;
        perform counterfoil.finish_deliveries(
            p_tenant_id, v_done.generation, v_positions, v_next);
    end loop;
end
$$;

revoke all on all functions in schema counterfoil from public;

grant execute on function
    counterfoil.consume_v2(
        integer, text, text[], text[], integer[], text[], integer[], integer[], bigint[], bigint[],
        integer[], jsonb, boolean, integer)
    to counterfoil_service;
