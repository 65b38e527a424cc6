-- Consumers: the log hands work out, under leases, in order per key; and an acknowledgement
-- that writes.
--
-- The processes of the release before cannot append to it: their door is gone with its type.
-- Stop them, migrate, start the new ones.

alter type counterfoil.new_request add attribute hands_in jsonb;

-- squawk-ignore ban-drop-function
drop function counterfoil.append_v3(integer, jsonb, integer);

-- Consumers: who reads what, how far each has come, and what is out of its hands.
--
-- Theory of operation
-- -------------------
-- The log itself hands the work out. A consumer's matching events are *put out* in the order
-- of their positions, some hundreds at a time: each becomes a row of `deliveries`, which stays
-- until its event is done. So these tables are as large as what is unfinished, whatever the
-- book has become. The states of a delivery and the moves between them:
--
--   waiting     behind an earlier event of its key
--   ready       whoever comes next gets it
--   held        by a holder, until `due_at`
--   delayed     given back, to be ready again at `due_at`
--   exhausted   failed `attempts_max` times; a sweeper sets it aside, with an event
--   set_aside   a dead letter that holds its key up; every other one has no row here
--
-- A *generation* is the life of a consumer from its making, or from its last seek, on: the
-- position of the event that says so. Deliveries and tokens belong to one. A seek begins
-- another, and all that was out before is worth nothing from then on, at once and without
-- touching a row of it.
--
-- Order per key. The rows that share a key stand in a line (`delivery_keys`), in the order in
-- which they joined it. A delivery is anything but waiting only if it is the first in each of
-- its lines. Two places see to that, and nothing else has to ask:
--
--   * Who joins a line (join_lines) is waiting if the line has somebody in it. It locks whoever
--     is last, so that nobody can leave unseen between that look and the commit.
--   * Who leaves (finish_deliveries) locks whoever is next, and then looks, in a statement of
--     its own, whether they are the first in all of their lines now. Two who leave two lines of
--     one delivery at the same moment meet at that lock, and the second sees the first gone.
--
-- One order of locks, and who may wait in it:
--
--   1. a book's head (append_v4). Under it nothing is waited for: what is locked by another
--      gives `row_busy`, and that request alone goes back to its queue.
--   2. deliveries that somebody names by token, in the order of their positions. consume_v1
--      waits for these, without the head.
--   3. those who are next in line behind them, in the same order.
--   4. the consumer's progress. Who holds it waits for nothing any more: claiming and joining
--      lines pass over what is locked.
--
-- Before all of these, consume_v1 waits for the idempotency keys of its calls; append_v4 has no
-- part in that.
--
-- Every statement that walks deliveries begins at `low` or `due_low`, below which no row is
-- left. What was deleted there stays in the indexes until vacuum has come by, and vacuum comes
-- late where some other session holds an old snapshot; walking over it made claims six times
-- slower within half a minute.

create table counterfoil.consumers (
    tenant_id integer not null,
    name text collate "C" not null,
    -- the event that made or changed it last
    position bigint not null,
    generation bigint not null,
    query jsonb not null,
    -- as it was asked for: "beginning", "now" or {"after": position}
    start jsonb not null,
    order_by text collate "C",
    lease_seconds integer not null,
    attempts_max integer not null,
    backoff_initial_seconds numeric not null,
    backoff_factor numeric not null,
    backoff_max_seconds numeric not null,
    in_flight_max integer,
    dead_letters text collate "C" not null,
    paused boolean not null default false,
    created_at timestamptz not null,
    created_by text collate "C" not null,
    constraint consumers_pkey primary key (tenant_id, name),
    constraint dead_letters_is_known check (dead_letters in ('hold', 'pass'))
);

-- How far each generation has come. Written when events are put out, once for hundreds.
create table counterfoil.consumer_progress (
    tenant_id integer not null,
    generation bigint not null,
    consumer text collate "C" not null,
    -- every event up to here was looked at
    reached bigint not null,
    -- no delivery has a lower position, but for dead letters that hold their key up
    low bigint not null,
    -- no delivery is due earlier
    due_low timestamptz not null default '-infinity',
    -- how many were put out, those that were replayed with them
    put_out bigint not null default 0,
    -- whether it began with a seek, and not where the consumer was to start
    sought boolean not null default false,
    -- what a replay adds to the places that follow, so that places only grow
    place_shift bigint not null default 0,
    -- how many had left at two moments of late, some ten seconds apart: the rate
    before_at timestamptz not null default clock_timestamp(),
    before_left bigint not null default 0,
    sampled_at timestamptz not null default clock_timestamp(),
    sampled_left bigint not null default 0,
    constraint consumer_progress_pkey primary key (tenant_id, generation)
) with (fillfactor = 50);

create table counterfoil.deliveries (
    tenant_id integer not null,
    generation bigint not null,
    position bigint not null,
    state text collate "C" not null,
    -- held: the lease's end; delayed: when it is ready again; else null
    due_at timestamptz,
    -- how often it was handed out; and how many of those do not count against it, because it
    -- was given back without a reason, or replayed since
    attempts integer not null default 0,
    uncounted integer not null default 0,
    holder text collate "C",
    principal text collate "C",
    claimed_at timestamptz,
    -- how earlier attempts ended: [{"attempt", "holder", "claimed_at", "ended_at", "reason"}]
    history jsonb,
    -- the lines in which it stands, and its place in them
    keys text[] collate "C" not null default '{}',
    place bigint not null,
    constraint deliveries_pkey primary key (tenant_id, generation, position),
    constraint delivery_state_is_known check (
        state in ('waiting', 'ready', 'held', 'delayed', 'exhausted', 'set_aside')),
    constraint due_if_held_or_delayed check ((state in ('held', 'delayed')) = (due_at is not null))
) with (
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1
);

create index deliveries_ready on counterfoil.deliveries (tenant_id, generation, position)
    where state = 'ready';
create index deliveries_due on counterfoil.deliveries (tenant_id, generation, due_at)
    where due_at is not null;
create index deliveries_exhausted on counterfoil.deliveries (tenant_id, generation, position)
    where state = 'exhausted';

create table counterfoil.delivery_keys (
    tenant_id integer not null,
    generation bigint not null,
    key text collate "C" not null,
    place bigint not null,
    position bigint not null,
    constraint delivery_keys_pkey primary key (tenant_id, generation, key, place)
) with (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1
);

-- What was set aside: beside the generations, since a seek must not lose it.
create table counterfoil.dead_letters (
    tenant_id integer not null,
    consumer text collate "C" not null,
    position bigint not null,
    generation bigint not null,
    attempts integer not null,
    history jsonb not null,
    reason text not null,
    said_by bigint not null,
    set_aside_at timestamptz not null,
    set_aside_by text collate "C" not null,
    holds_key boolean not null,
    constraint dead_letters_pkey primary key (tenant_id, consumer, position)
);

-- The answers to calls that leave no event, for as long as a lost answer is asked for again
-- (CALLS_REMEMBERED_SECONDS).
create table counterfoil.consumer_calls (
    tenant_id integer not null,
    principal text collate "C" not null,
    key text collate "C" not null,
    content_digest bytea not null,
    answer jsonb not null,
    created_at timestamptz not null,
    constraint consumer_calls_pkey primary key (tenant_id, principal, key)
) with (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1
);

create index consumer_calls_by_age on counterfoil.consumer_calls (tenant_id, created_at);

-- What a holder shows for a delivery that it holds. An event's tokens grow with each handing out.
create type counterfoil.token as (
    request integer,        -- which request of the group it came with
    principal text,
    generation bigint,
    position bigint,
    attempt integer
);

-- A delivery that its holder still has, locked.
create type counterfoil.held_delivery as (
    request integer,
    generation bigint,
    position bigint,
    due_at timestamptz,
    keys text[],
    place tid               -- where its row is; it stays there for as long as it is locked
);

-- Who would join which lines, and whether they have to wait there. Null: that cannot be told
-- now, because somebody is about to leave.
create type counterfoil.joining as (
    position bigint,
    keys text[],
    waits boolean
);

-- The deliveries that these tokens stand for, locked: those that are held, by this principal,
-- in this attempt. Whether the lease is over is to be asked after this, by the clock of then.
create function counterfoil.lock_held(
    p_tenant_id integer,
    p_tokens counterfoil.token[],
    p_wait boolean          -- or pass over what others have locked
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
    if p_wait then
        return array(
            select row(t.request, t.generation, t.position, d.due_at, d.keys, d.place
                   )::counterfoil.held_delivery
            from (select t.* from unnest(p_tokens) as t order by t.generation, t.position) as t
            cross join lateral (
                select d.due_at, d.keys, d.ctid as place from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = t.generation
                  and d.position = t.position and d.state = 'held' and d.attempts = t.attempt
                  and d.principal = t.principal
                for update
            ) as d);
    end if;
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

-- Where the rows of these deliveries are, for a statement that changes them and has them locked.
-- (Before 17, and without statistics, `position = any (…)` walks all of a generation.)
create function counterfoil.rows_of_deliveries(
    p_tenant_id integer, p_generation bigint, p_positions bigint[]
) returns tid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    return array(
        select d.ctid
        from unnest(p_positions) as p (position)
        cross join lateral (
            select d.ctid from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = p_generation
              and d.position = p.position
            offset 0
        ) as d);
end
$$;

-- The positions of those who stand in lines right behind these places, locked. False: some of
-- them are locked by others, which is possible only without waiting.
create function counterfoil.lock_next_in_line(
    p_tenant_id integer,
    p_generation bigint,
    p_positions bigint[],
    p_wait boolean,
    out next_positions bigint[],
    out complete boolean
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
    v_locked bigint[];
begin
    next_positions := array(
        select distinct following.position
        from unnest(p_positions) as leaving (position)
        cross join lateral (
            select d.keys, d.place from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = p_generation
              and d.position = leaving.position
            offset 0
        ) as d
        cross join lateral unnest(d.keys) as k (key)
        cross join lateral (
            select q.position from counterfoil.delivery_keys q
            where q.tenant_id = p_tenant_id and q.generation = p_generation
              and q.key = k.key and q.place > d.place
            order by q.place limit 1
        ) as following
        where following.position <> all (p_positions));
    if next_positions = '{}' then
        complete := true;
    elsif p_wait then
        perform from (
            select n.position from unnest(next_positions) as n (position)
            order by n.position
            offset 0
        ) as n
        cross join lateral (
            select from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = p_generation
              and d.position = n.position
            for no key update
        ) as d;
        complete := true;
    else
        v_locked := array(
            select d.position
            from unnest(next_positions) as n (position)
            cross join lateral (
                select d.position from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = p_generation
                  and d.position = n.position
                for no key update skip locked
            ) as d);
        complete := cardinality(v_locked) = cardinality(next_positions);
    end if;
end
$$;

-- Takes deliveries out, for good, and lets those go who were behind them. The caller holds
-- their locks, and the locks of those behind them.
create function counterfoil.finish_deliveries(
    p_tenant_id integer,
    p_generation bigint,
    p_positions bigint[],
    p_next_positions bigint[]
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
begin
    with gone as (
        delete from counterfoil.deliveries d
        where d.ctid = any (
            counterfoil.rows_of_deliveries(p_tenant_id, p_generation, p_positions))
        returning d.keys, d.place
    )
    -- Each by itself: a join of the two would, without statistics, walk all lines that there are.
    delete from counterfoil.delivery_keys q
    where q.ctid = any (array(
        select o.ctid
        from gone
        cross join lateral unnest(gone.keys) as k (key)
        cross join lateral (
            select o.ctid from counterfoil.delivery_keys o
            where o.tenant_id = p_tenant_id and o.generation = p_generation
              and o.key = k.key and o.place = gone.place
            offset 0
        ) as o));
    if p_next_positions <> '{}' then
        update counterfoil.deliveries d set state = 'ready'
        where d.ctid = any (
            counterfoil.rows_of_deliveries(p_tenant_id, p_generation, p_next_positions))
          and d.state = 'waiting'
          and not exists (
              select from unnest(d.keys) as k (key)
              cross join lateral (
                  select from counterfoil.delivery_keys q
                  where q.tenant_id = p_tenant_id and q.generation = p_generation
                    and q.key = k.key and q.place < d.place
                  limit 1
              ) as before);
    end if;
end
$$;

-- Which lines these events would join, in this order, and who would have to wait. Whoever is
-- last in one is locked, so that it is still there at the commit, and lets them go later.
create function counterfoil.join_lines(
    p_tenant_id integer,
    p_generation bigint,
    p_order_by text,
    p_positions bigint[]
) returns counterfoil.joining[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_joining counterfoil.joining[];
    v_last bigint[];
    v_locked bigint[];
begin
    v_joining := array(
        select row(p.position, coalesce(array(
            select t.tag from unnest(e.tags) as t (tag)
            where starts_with(t.tag, p_order_by || ':')), '{}'), false)::counterfoil.joining
        from unnest(p_positions) with ordinality as p (position, nth)
        cross join lateral (
            select e.tags from counterfoil.events e
            where e.tenant_id = p_tenant_id and e.position = p.position
            offset 0
        ) as e
        order by p.nth);
    v_last := array(
        select distinct last.position
        from (
            select distinct k.key
            from unnest(v_joining) as j (position, keys, waits)
            cross join lateral unnest(j.keys) as k (key)
        ) as k
        cross join lateral (
            select q.position from counterfoil.delivery_keys q
            where q.tenant_id = p_tenant_id and q.generation = p_generation and q.key = k.key
            order by q.place desc limit 1
        ) as last);
    if v_last <> '{}' then
        v_locked := array(
            select d.position
            from unnest(v_last) as l (position)
            cross join lateral (
                select d.position from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = p_generation
                  and d.position = l.position
                for key share skip locked
            ) as d);
    end if;
    -- Who was last and is not locked has left meanwhile, or is about to: that the lines say now.
    return array(
        select row(j.position, j.keys, case
            when bool_or(k.last_position is not null and k.last_position <> all (coalesce(v_locked, '{}')))
                then null
            else coalesce(bool_or(k.last_position is not null or k.first_nth < j.nth), false)
        end)::counterfoil.joining
        from unnest(v_joining) with ordinality as j (position, keys, waits, nth)
        left join (
            select k.nth, k.key, min(k.nth) over (partition by k.key) as first_nth, (
                       select q.position from counterfoil.delivery_keys q
                       where q.tenant_id = p_tenant_id and q.generation = p_generation
                         and q.key = k.key
                       order by q.place desc limit 1) as last_position
            from (
                select j.nth, k.key
                from unnest(v_joining) with ordinality as j (position, keys, waits, nth)
                cross join lateral unnest(j.keys) as k (key)
            ) as k
        ) as k on k.nth = j.nth
        group by j.nth, j.position, j.keys
        order by j.nth);
end
$$;

-- Puts out the next events of a consumer, and returns how many; or, where nothing more is put
-- out for now, `full` (as much as may be is unfinished) or `stalled` (so it is with dead letters).
-- The caller holds its progress. Those that join lines from which somebody is just leaving are
-- left for the next time, and all behind them.
create function counterfoil.put_out(
    p_tenant_id integer,
    p_consumer counterfoil.consumers,
    p_head bigint,
    out events integer,
    out held_back text
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    -- Each has its reason in core/limits.py (PUT_OUT_EVENTS, PUT_OUT_POSITIONS,
    -- UNFINISHED_MAX, DEAD_LETTERS_MAX).
    c_events constant integer := 1000;
    c_positions constant integer := 100000;
    c_unfinished_max constant integer := 20000;
    c_dead_letters_max constant integer := 10000;
    c_sample_seconds constant integer := 10;
    v_progress counterfoil.consumer_progress;
    v_up_to bigint;
    v_positions bigint[];
    v_joining counterfoil.joining[];
    v_busy integer;
    v_low bigint;
    v_now timestamptz := clock_timestamp();
    v_left bigint;
begin
    select * into v_progress from counterfoil.consumer_progress p
    where p.tenant_id = p_tenant_id and p.generation = p_consumer.generation;
    v_low := coalesce((
        select d.position from counterfoil.deliveries d
        where d.tenant_id = p_tenant_id and d.generation = p_consumer.generation
          and d.position >= v_progress.low and d.state <> 'set_aside'
        order by d.position limit 1), v_progress.reached + 1);
    if v_progress.reached - v_low >= c_unfinished_max and (
        select count(*) from (
            select from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = p_consumer.generation
              and d.position >= v_low
            limit c_unfinished_max) as unfinished) >= c_unfinished_max
    then
        held_back := 'full';
    elsif (
        select count(*) from (
            select from counterfoil.dead_letters l
            where l.tenant_id = p_tenant_id and l.consumer = p_consumer.name
            limit c_dead_letters_max) as dead) >= c_dead_letters_max
    then
        held_back := 'stalled';
    end if;
    if held_back is not null then
        events := 0;
        return;
    end if;

    v_up_to := least(p_head, v_progress.reached + c_positions);
    v_positions := array(
        select counterfoil.matching_v1(
            p_tenant_id, p_consumer.query, null, v_progress.reached, v_up_to, c_events, false));
    if cardinality(v_positions) = c_events then
        v_up_to := v_positions[c_events];
    end if;
    if p_consumer.order_by is null then
        insert into counterfoil.deliveries (tenant_id, generation, position, state, place)
        select p_tenant_id, p_consumer.generation, m.position, 'ready',
               m.position + v_progress.place_shift
        from unnest(v_positions) as m (position);
    elsif v_positions <> '{}' then
        v_joining := counterfoil.join_lines(
            p_tenant_id, p_consumer.generation, p_consumer.order_by, v_positions);
        v_busy := (
            select min(j.nth) from unnest(v_joining) with ordinality as j (position, keys, waits, nth)
            where j.waits is null);
        if v_busy is not null then
            v_up_to := v_positions[v_busy] - 1;
            v_positions := v_positions[: v_busy - 1];
            v_joining := v_joining[: v_busy - 1];
        end if;
        insert into counterfoil.deliveries (
            tenant_id, generation, position, state, keys, place)
        select p_tenant_id, p_consumer.generation, j.position,
               case when j.waits then 'waiting' else 'ready' end, j.keys,
               j.position + v_progress.place_shift
        from unnest(v_joining) as j (position, keys, waits);
        insert into counterfoil.delivery_keys (tenant_id, generation, key, place, position)
        select p_tenant_id, p_consumer.generation, k.key, j.position + v_progress.place_shift,
               j.position
        from unnest(v_joining) as j (position, keys, waits)
        cross join lateral unnest(j.keys) as k (key);
    end if;

    if v_now >= v_progress.sampled_at + c_sample_seconds * interval '1 second' then
        v_left := v_progress.put_out - counterfoil.unfinished_deliveries(
            p_tenant_id, p_consumer.generation, v_low) + cardinality(v_positions);
        v_progress.before_at := v_progress.sampled_at;
        v_progress.before_left := v_progress.sampled_left;
        v_progress.sampled_at := v_now;
        v_progress.sampled_left := v_left;
    end if;
    update counterfoil.consumer_progress p
    set reached = v_up_to, low = v_low, put_out = v_progress.put_out + cardinality(v_positions),
        before_at = v_progress.before_at, before_left = v_progress.before_left,
        sampled_at = v_progress.sampled_at, sampled_left = v_progress.sampled_left
    where p.tenant_id = p_tenant_id and p.generation = p_consumer.generation;
    events := cardinality(v_positions);
end
$$;

-- How many deliveries of a generation are neither done nor set aside.
create function counterfoil.unfinished_deliveries(
    p_tenant_id integer, p_generation bigint, p_low bigint
) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    return (select count(*) from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = p_generation
              and d.position >= p_low and d.state <> 'set_aside');
end
$$;

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

-- Handing in: an append that takes what it was about out of its holder's hands, in the same
-- step. Either the work is done and its outcome is in the book, or neither. All of this runs
-- within append_v4, under the book's head, and waits for nothing.

-- What these requests hand in, each token with the place of its request among them.
create function counterfoil.tokens_of(p_requests counterfoil.new_request[])
returns counterfoil.token[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select row(r.nth, r.principal, (t.token ->> 0)::bigint, (t.token ->> 1)::bigint,
                   (t.token ->> 2)::integer)::counterfoil.token
        from unnest(p_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, hands_in, nth)
        cross join lateral jsonb_array_elements(r.hands_in -> 'tokens') as t (token));
end
$$;

-- The tokens of those requests that have none of a generation that is over.
create function counterfoil.tokens_in_force(
    p_tenant_id integer, p_requests counterfoil.new_request[]
) returns counterfoil.token[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    return array(
        select row(f.request, f.principal, f.generation, f.position, f.attempt)::counterfoil.token
        from (
            select t.*, bool_and(exists (
                select from counterfoil.consumers c
                where c.tenant_id = p_tenant_id
                  and c.name = p_requests[t.request].hands_in ->> 'consumer'
                  and c.generation = t.generation
                offset 0)) over (partition by t.request) as in_force
            from unnest(counterfoil.tokens_of(p_requests)) as t
        ) as f
        where f.in_force);
end
$$;

-- When the first of these leases ends.
create function counterfoil.lease_ends(p_tenant_id integer, p_tokens counterfoil.token[])
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    return (
        select min(d.due_at)
        from unnest(p_tokens) as t
        cross join lateral (
            select d.due_at from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = t.generation
              and d.position = t.position
            offset 0
        ) as d);
end
$$;

-- Of the requests of a group of appends that hand in what they hold: which have all of it,
-- locked, with those who are next in line. The caller holds the book's head, so nothing is
-- waited for; who is not among these is looked at alone (hand_in_fault).
create function counterfoil.holders_in_group(
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
    v_held := counterfoil.lock_held(p_tenant_id, p_tokens, false);
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
    return array(
        select t.request
        from (
            select t.*, row_number() over (
                partition by t.generation, t.position order by t.request) as bearer
            from unnest(p_tokens) as t
        ) as t
        left join (
            select h.* from unnest(v_held) as h where h.due_at > v_now
        ) as h on h.request = t.request and h.generation = t.generation and h.position = t.position
        group by t.request
        having bool_and(h.position is not null and t.bearer = 1
                        and h.generation <> all (v_busy)));
end
$$;

-- Why one request cannot hand in what it names: null, row_busy, lease_lost or
-- consumer_not_found. Under the head.
create function counterfoil.hand_in_fault(
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
    v_held counterfoil.held_delivery[] := counterfoil.lock_held(p_tenant_id, p_tokens, false);
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
create function counterfoil.hand_in(p_tenant_id integer, p_tokens counterfoil.token[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    v_done record;
    v_next bigint[];
begin
    for v_done in
        select t.generation, array_agg(t.position) as positions from unnest(p_tokens) as t
        group by t.generation
    loop
        select l.next_positions into v_next from counterfoil.lock_next_in_line(
            p_tenant_id, v_done.generation, v_done.positions, false) as l;
        perform counterfoil.finish_deliveries(
            p_tenant_id, v_done.generation, v_done.positions, v_next);
    end loop;
end
$$;

-- What the service's own events do to consumers: made, changed, sought, deleted; deliveries set
-- aside, dead letters replayed and dropped. Each runs within append_v4 by apply_effect, under
-- the book's head: null if it is done; else why not, in one word, and nothing was changed.
-- `row_busy` among these means that somebody else has a row of it locked for the moment.

-- The last position of a book before a time. created_at only grows.
create function counterfoil.position_before(
    p_tenant_id integer, p_time timestamptz, p_head bigint
) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_before bigint := 0;
    v_from bigint := p_head + 1;
    v_middle bigint;
begin
    while v_from - v_before > 1 loop
        v_middle := v_before + (v_from - v_before) / 2;
        if (select e.created_at from counterfoil.events e
            where e.tenant_id = p_tenant_id and e.position = v_middle) < p_time
        then
            v_before := v_middle;
        else
            v_from := v_middle;
        end if;
    end loop;
    return v_before;
end
$$;

-- Where a consumer begins: "beginning", "now", {"after": position} or {"time": time}. Null:
-- there the book has not come yet.
create function counterfoil.start_position(
    p_tenant_id integer,
    p_start jsonb,
    p_position bigint       -- of the event that says so
) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when p_start = '"beginning"' then 0
        when p_start = '"now"' then p_position
        when p_start ? 'time' then counterfoil.position_before(
            p_tenant_id, (p_start ->> 'time')::timestamptz, p_position - 1)
        when (p_start ->> 'after')::bigint < p_position then (p_start ->> 'after')::bigint
    end;
end
$$;

-- Makes a consumer, or changes it. What has begun keeps its place in the book, its start and its
-- order; its query, unless the change was asked for by name.
create function counterfoil.put_consumer(
    p_tenant_id integer, p_effect jsonb, p_position bigint, p_now timestamptz
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Its reason stands in core/limits.py (CONSUMERS_MAX).
    c_consumers_max constant integer := 1000;
    v_old counterfoil.consumers;
    v_new counterfoil.consumers;
    v_begun boolean;
    v_reached bigint;
begin
    select * into v_old from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_effect ->> 'name';
    v_new := row(
        p_tenant_id, p_effect ->> 'name', p_position, coalesce(v_old.generation, p_position),
        p_effect -> 'query', p_effect -> 'start', p_effect ->> 'order_by',
        (p_effect ->> 'lease_seconds')::integer, (p_effect ->> 'attempts_max')::integer,
        (p_effect ->> 'backoff_initial_seconds')::numeric, (p_effect ->> 'backoff_factor')::numeric,
        (p_effect ->> 'backoff_max_seconds')::numeric, (p_effect ->> 'in_flight_max')::integer,
        p_effect ->> 'dead_letters', coalesce(v_old.paused, false),
        coalesce(v_old.created_at, p_now), coalesce(v_old.created_by, p_effect ->> 'by'));

    -- From "now" on means from the event that said so first.
    v_reached := counterfoil.start_position(
        p_tenant_id, v_new.start,
        case when v_new.start = v_old.start then v_old.generation else p_position end);
    if (p_effect ->> 'exists')::boolean <> (v_old.name is not null) then
        return 'not_as_expected';
    end if;
    if v_old.name is null then
        if (select count(*) from counterfoil.consumers c
            where c.tenant_id = p_tenant_id) >= c_consumers_max
        then
            return 'too_many';
        elsif v_reached is null then
            return 'after_above_head';
        end if;
        insert into counterfoil.consumers select v_new.*;
        insert into counterfoil.consumer_progress (tenant_id, generation, consumer, reached, low)
        values (p_tenant_id, p_position, v_new.name, v_reached, v_reached + 1);
        return null;
    end if;

    v_new.position := v_old.position;
    if v_new = v_old then
        return 'unchanged';
    end if;
    v_new.position := p_position;
    if v_new.query <> v_old.query or v_new.start <> v_old.start
       or v_new.order_by is distinct from v_old.order_by
    then
        -- Locked, so that nothing is put out by the old query after this.
        select p.put_out > 0 or p.sought into v_begun from counterfoil.consumer_progress p
        where p.tenant_id = p_tenant_id and p.generation = v_old.generation
        for no key update skip locked;
        if not found then
            return 'row_busy';
        elsif not v_begun then
            if v_reached is null then
                return 'after_above_head';
            end if;
            update counterfoil.consumer_progress p set reached = v_reached, low = v_reached + 1
            where p.tenant_id = p_tenant_id and p.generation = v_old.generation;
        elsif v_new.start <> v_old.start then
            return 'begun_start';
        elsif v_new.order_by is distinct from v_old.order_by then
            return 'begun_order_by';
        elsif not (p_effect ->> 'change_query')::boolean then
            return 'begun_query';
        end if;
    end if;
    update counterfoil.consumers c
    set position = v_new.position, query = v_new.query, start = v_new.start,
        order_by = v_new.order_by, lease_seconds = v_new.lease_seconds,
        attempts_max = v_new.attempts_max,
        backoff_initial_seconds = v_new.backoff_initial_seconds,
        backoff_factor = v_new.backoff_factor, backoff_max_seconds = v_new.backoff_max_seconds,
        in_flight_max = v_new.in_flight_max, dead_letters = v_new.dead_letters
    where c.tenant_id = p_tenant_id and c.name = v_new.name;
    return null;
end
$$;

-- Pauses, resumes, seeks or deletes a consumer. A claim that is in flight at that moment counts
-- as one before it; what a seek or a deletion finds handed out can be neither kept nor
-- acknowledged any more.
create function counterfoil.change_consumer(
    p_tenant_id integer, p_effect jsonb, p_position bigint
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_consumer counterfoil.consumers;
    v_reached bigint;
begin
    select * into v_consumer from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_effect ->> 'name';
    if not found then
        return 'consumer_not_found';
    end if;
    case p_effect ->> 'change'

    when 'pause', 'resume' then
        if v_consumer.paused = (p_effect ->> 'change' = 'pause') then
            return 'unchanged';
        end if;
        update counterfoil.consumers c
        set paused = not v_consumer.paused, position = p_position
        where c.tenant_id = p_tenant_id and c.name = v_consumer.name;

    when 'seek' then
        v_reached := counterfoil.start_position(p_tenant_id, p_effect -> 'to', p_position);
        if v_reached is null then
            return 'after_above_head';
        end if;
        insert into counterfoil.consumer_progress (
            tenant_id, generation, consumer, reached, low, sought)
        values (p_tenant_id, p_position, v_consumer.name, v_reached, v_reached + 1, true);
        update counterfoil.consumers c set generation = p_position, position = p_position
        where c.tenant_id = p_tenant_id and c.name = v_consumer.name;
        -- What is put out anew needs no letter to be remembered by.
        delete from counterfoil.dead_letters l
        where l.tenant_id = p_tenant_id and l.consumer = v_consumer.name and l.position > v_reached;
        update counterfoil.dead_letters l set holds_key = false
        where l.tenant_id = p_tenant_id and l.consumer = v_consumer.name and l.holds_key;

    when 'delete' then
        if not (p_effect ->> 'drop_dead_letters')::boolean and exists (
            select from counterfoil.dead_letters l
            where l.tenant_id = p_tenant_id and l.consumer = v_consumer.name)
        then
            return 'has_dead_letters';
        end if;
        delete from counterfoil.dead_letters l
        where l.tenant_id = p_tenant_id and l.consumer = v_consumer.name;
        delete from counterfoil.consumers c
        where c.tenant_id = p_tenant_id and c.name = v_consumer.name;

    end case;
    return null;
end
$$;

-- Where the rows of these dead letters are. Only who has the book's head changes any.
create function counterfoil.rows_of_dead_letters(
    p_tenant_id integer, p_consumer text, p_positions bigint[]
) returns tid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
    return array(
        select l.ctid
        from (select distinct p.position from unnest(p_positions) as p (position)) as p
        cross join lateral (
            select l.ctid from counterfoil.dead_letters l
            where l.tenant_id = p_tenant_id and l.consumer = p_consumer
              and l.position = p.position
            offset 0
        ) as l);
end
$$;

-- Sets deliveries aside, one of the request's events for each, in their order: what a holder
-- holds, or (without a principal) what is exhausted.
create function counterfoil.set_aside(
    p_tenant_id integer, p_effect jsonb, p_position bigint, p_now timestamptz
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_consumer counterfoil.consumers;
    v_tokens counterfoil.token[] := array(
        select row(t.nth, p_effect ->> 'principal', (t.token ->> 0)::bigint,
                   (t.token ->> 1)::bigint, (t.token ->> 2)::integer)::counterfoil.token
        from jsonb_array_elements(p_effect -> 'tokens') with ordinality as t (token, nth)
        order by t.nth);
    v_positions bigint[] := array(select t.position from unnest(v_tokens) as t);
    v_locked bigint[];
    v_leaving bigint[];
    v_next record;
    v_fault text;
begin
    select * into v_consumer from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_effect ->> 'consumer';
    if not found then
        return 'consumer_not_found';
    end if;
    if cardinality(v_positions) > (select count(distinct t.position) from unnest(v_tokens) as t) then
        return 'lease_lost';
    elsif p_effect ->> 'principal' is not null then
        v_fault := counterfoil.hand_in_fault(p_tenant_id, p_effect, v_tokens);
        if v_fault is not null then
            return v_fault;
        end if;
    else
        v_locked := array(
            select d.position
            from unnest(v_tokens) as t
            cross join lateral (
                select d.position from counterfoil.deliveries d
                where d.tenant_id = p_tenant_id and d.generation = t.generation
                  and d.position = t.position and d.generation = v_consumer.generation
                  and d.attempts = t.attempt and d.state = 'exhausted'
                for update skip locked
            ) as d);
        if cardinality(v_locked) < cardinality(v_positions) then
            return case when (
                select count(*) from unnest(v_tokens) as t
                join counterfoil.deliveries d
                    on d.tenant_id = p_tenant_id and d.generation = t.generation
                    and d.position = t.position
                where d.generation = v_consumer.generation
                  and d.state = 'exhausted' and d.attempts = t.attempt
            ) = cardinality(v_positions) then 'row_busy' else 'unchanged' end;
        end if;
    end if;
    select * into v_next from counterfoil.lock_next_in_line(
        p_tenant_id, v_consumer.generation, v_positions, false);
    if not v_next.complete then
        return 'row_busy';
    end if;

    insert into counterfoil.dead_letters (
        tenant_id, consumer, position, generation, attempts, history, reason, said_by,
        set_aside_at, set_aside_by, holds_key)
    select p_tenant_id, v_consumer.name, d.position, d.generation, d.attempts,
           case when d.state = 'held'
                then counterfoil.ended_attempt(d, p_now, p_effect ->> 'reason')
                else d.history end,
           p_effect ->> 'reason', p_position + t.request - 1, p_now, p_effect ->> 'by',
           v_consumer.dead_letters = 'hold' and d.keys <> '{}'
    from unnest(v_tokens) as t
    join counterfoil.deliveries d
        on d.tenant_id = p_tenant_id and d.generation = t.generation and d.position = t.position;
    v_leaving := array(
        select l.position from counterfoil.dead_letters l
        where l.ctid = any (counterfoil.rows_of_dead_letters(
            p_tenant_id, v_consumer.name, v_positions)) and not l.holds_key);
    update counterfoil.deliveries d
    set state = 'set_aside', due_at = null, holder = null, principal = null, claimed_at = null
    where d.ctid = any (counterfoil.rows_of_deliveries(
        p_tenant_id, v_consumer.generation, v_positions)) and d.position <> all (v_leaving);
    perform counterfoil.finish_deliveries(
        p_tenant_id, v_consumer.generation, v_leaving, v_next.next_positions);
    return null;
end
$$;

-- Which of these dead letters have a row that holds their key up; locked. Or the fault: one of
-- the letters is not there, or a row is locked by another.
create function counterfoil.lock_dead_letters(
    p_tenant_id integer,
    p_consumer counterfoil.consumers,
    p_positions bigint[],
    out positions bigint[],
    out fault text
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_wanted bigint[];
begin
    if p_positions = '{}' or cardinality(p_positions) <> (
        select count(*) from counterfoil.dead_letters l
        where l.ctid = any (counterfoil.rows_of_dead_letters(
            p_tenant_id, p_consumer.name, p_positions)))
    then
        fault := 'dead_letter_not_found';
        return;
    end if;
    v_wanted := array(
        select l.position from counterfoil.dead_letters l
        where l.ctid = any (counterfoil.rows_of_dead_letters(
            p_tenant_id, p_consumer.name, p_positions)) and l.holds_key);
    positions := array(
        select d.position
        from unnest(v_wanted) as w (position)
        cross join lateral (
            select d.position from counterfoil.deliveries d
            where d.tenant_id = p_tenant_id and d.generation = p_consumer.generation
              and d.position = w.position and d.state = 'set_aside'
            for update skip locked
        ) as d);
    if cardinality(positions) < cardinality(v_wanted) then
        fault := 'row_busy';
    end if;
end
$$;

-- Hands dead letters out again, with as many attempts as at first. One that holds its key up
-- goes on in its place; every other joins the lines of its keys at their ends.
create function counterfoil.replay_dead_letters(p_tenant_id integer, p_effect jsonb) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_consumer counterfoil.consumers;
    v_progress counterfoil.consumer_progress;
    v_positions bigint[] := array(
        select i.id::bigint from jsonb_array_elements_text(p_effect -> 'event_ids') as i (id)
        order by 1);
    v_holding record;
    v_others bigint[];
    v_joining counterfoil.joining[];
begin
    select * into v_consumer from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_effect ->> 'name';
    if not found then
        return 'consumer_not_found';
    end if;
    select * into v_holding from counterfoil.lock_dead_letters(
        p_tenant_id, v_consumer, v_positions);
    if v_holding.fault is not null then
        return v_holding.fault;
    end if;
    select * into v_progress from counterfoil.consumer_progress p
    where p.tenant_id = p_tenant_id and p.generation = v_consumer.generation
    for no key update skip locked;
    if not found then
        return 'row_busy';
    end if;
    v_others := array(
        select p.position from unnest(v_positions) as p (position)
        where p.position <> all (v_holding.positions) order by p.position);
    v_joining := counterfoil.join_lines(
        p_tenant_id, v_consumer.generation, v_consumer.order_by, v_others);
    if exists (select from unnest(v_joining) as j (position, keys, waits) where j.waits is null) then
        return 'row_busy';
    end if;

    update counterfoil.deliveries d
    set state = 'ready', uncounted = d.attempts, history = (
        select l.history from counterfoil.dead_letters l
        where l.tenant_id = p_tenant_id and l.consumer = v_consumer.name
          and l.position = d.position)
    where d.ctid = any (counterfoil.rows_of_deliveries(
        p_tenant_id, v_consumer.generation, v_holding.positions));
    insert into counterfoil.deliveries (
        tenant_id, generation, position, state, attempts, uncounted, history, keys, place)
    select p_tenant_id, v_consumer.generation, j.position,
           case when j.waits then 'waiting' else 'ready' end, l.attempts, l.attempts, l.history,
           j.keys, v_progress.reached + v_progress.place_shift + j.nth
    from unnest(v_joining) with ordinality as j (position, keys, waits, nth)
    cross join lateral (
        select l.attempts, l.history from counterfoil.dead_letters l
        where l.tenant_id = p_tenant_id and l.consumer = v_consumer.name and l.position = j.position
        offset 0
    ) as l;
    insert into counterfoil.delivery_keys (tenant_id, generation, key, place, position)
    select p_tenant_id, v_consumer.generation, k.key,
           v_progress.reached + v_progress.place_shift + j.nth, j.position
    from unnest(v_joining) with ordinality as j (position, keys, waits, nth)
    cross join lateral unnest(j.keys) as k (key);
    update counterfoil.consumer_progress p
    set low = least(p.low, v_positions[1]), put_out = p.put_out + cardinality(v_positions),
        place_shift = p.place_shift + cardinality(v_others)
    where p.tenant_id = p_tenant_id and p.generation = v_consumer.generation;
    delete from counterfoil.dead_letters l
    where l.ctid = any (counterfoil.rows_of_dead_letters(
        p_tenant_id, v_consumer.name, v_positions));
    return null;
end
$$;

-- Drops dead letters: nobody is to do this work any more.
create function counterfoil.drop_dead_letters(p_tenant_id integer, p_effect jsonb) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    v_consumer counterfoil.consumers;
    v_positions bigint[] := array(
        select i.id::bigint from jsonb_array_elements_text(p_effect -> 'event_ids') as i (id)
        order by 1);
    v_holding record;
    v_next record;
begin
    select * into v_consumer from counterfoil.consumers c
    where c.tenant_id = p_tenant_id and c.name = p_effect ->> 'name';
    if not found then
        return 'consumer_not_found';
    end if;
    select * into v_holding from counterfoil.lock_dead_letters(
        p_tenant_id, v_consumer, v_positions);
    if v_holding.fault is not null then
        return v_holding.fault;
    end if;
    select * into v_next from counterfoil.lock_next_in_line(
        p_tenant_id, v_consumer.generation, v_holding.positions, false);
    if not v_next.complete then
        return 'row_busy';
    end if;
    perform counterfoil.finish_deliveries(
        p_tenant_id, v_consumer.generation, v_holding.positions, v_next.next_positions);
    delete from counterfoil.dead_letters l
    where l.ctid = any (counterfoil.rows_of_dead_letters(
        p_tenant_id, v_consumer.name, v_positions));
    return null;
end
$$;

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

-- Writes a run of accepted requests: their events at the positions after p_head, their tags
-- and their keys; and takes out what they hand in. Only append_v4 may call it, under the lock.
create or replace function counterfoil.write_run(
    p_tenant_id integer,
    p_events counterfoil.new_event[],
    p_requests counterfoil.new_request[],
    -- where the run begins in its group: how many events are before it
    p_events_before integer,
    p_head bigint,
    p_created_at timestamptz,
    p_keyed boolean
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into counterfoil.events (
        tenant_id, position, agent_name, event_type, payload, tags, created_at,
        occurred_at, caused_by, context, salt, digest, principal)
    select p_tenant_id, p_head + e.nth, e.agent_name, e.event_type, e.payload, e.tags,
           p_created_at, e.occurred_at, e.caused_by, e.context, e.salt, e.digest, e.principal
    from unnest(p_events) with ordinality as e (
        agent_name, event_type, payload, payload_bytes, tags, occurred_at, caused_by,
        context, salt, digest, principal, request, nth);

    insert into counterfoil.event_tags (tenant_id, tag, position)
    select p_tenant_id, t.tag, p_head + e.nth
    from unnest(p_events) with ordinality as e (
        agent_name, event_type, payload, payload_bytes, tags, occurred_at, caused_by,
        context, salt, digest, principal, request, nth)
    cross join lateral unnest(e.tags) as t (tag);

    if p_keyed then
        insert into counterfoil.idempotency_keys (
            tenant_id, principal, key, content_digest, first_position, event_count, created_at)
        select p_tenant_id, r.principal, r.key, r.content_digest,
               p_head + r.events_to - r.events_count - p_events_before + 1, r.events_count,
               p_created_at
        from unnest(p_requests) as r
        where r.key is not null;
    end if;

    if exists (select from unnest(p_requests) as r where r.hands_in is not null) then
        perform counterfoil.hand_in(p_tenant_id, counterfoil.tokens_of(p_requests));
    end if;
end
$$;

-- The append: the one door through which anything enters a book.
--
-- Theory of operation
-- -------------------
-- A group is a list of requests of one tenant; each is an append of one or more events
-- with, perhaps, an idempotency key and a condition. The group behaves as if its
-- requests had been run one after another, in their order, each in a transaction of its
-- own; they share a commit, that is all. A request that is refused is refused alone.
--
--   1. Before the lock, what is dear and needs no order: documents are taken apart,
--      digests computed, and each condition is checked up to the head seen now.
--   2. The lock, a statement of its own. Whoever waits here sees, in the statements that
--      follow, all that was committed during the wait: in a VOLATILE function under READ
--      COMMITTED each statement takes its own snapshot. (Lock and check in one statement
--      would check through the snapshot from before the wait.)
--   3. Under the lock: where the book stands, and which requests need a look of their
--      own. The others are accepted as they come, many in one statement.
--   4. The commit, which the caller waits for, releases the lock only after the events
--      are flushed and visible. So the order of positions is the order of commits: who
--      sees n sees all before n, and a reader needs nothing but `position > cursor`.
--
-- Which requests need a look of their own? One whose answer could be anything but
-- "stored", as far as a few set-based statements can tell for the whole group: its key is
-- in the table or twice in the group, its condition may be violated, its causes may not
-- exist yet, a payload is too large. Those statements may suspect too much, never too
-- little; what they suspect is judged exactly, request by request, in the order of the
-- group. A suspected condition is held against matching_v1, the one definition of what
-- matches.
--
-- What may be written is settled in the same order as what is written (05_rules.sql):
--
--   * A freeze holds from its event's position on. It is asked for under the lock.
--   * Schemas cannot be checked in here. So each request carries the position of the last
--     change of rules under which its process judged it. Where that is not the last change
--     any more, the answer is rules_changed, and the process judges it anew.
--   * The service's own requests (`own`) may carry an effect: a key made, a type registered,
--     a tag frozen. It is applied at the position of the request's event, and every request
--     behind it in the group is judged by what it changed.
--
-- A request may hand in what its principal holds under leases (06_consumers.sql): then it is
-- stored only if they hold all of it, and it leaves their hands in the same step. Nothing is
-- waited for under the lock. Where somebody else has locked one of those rows, the request is
-- told row_busy, for its process to send it again; all others of the group go their way.
--
-- The row in books is locked and never updated: see 01_tables.sql. There are no EXCEPTION
-- blocks: each would burn a transaction id, and one that fails lets go of the lock.
--
-- Whatever this function cannot answer for a single request, it raises for the group,
-- and nothing of the group is stored; the caller then runs the group in halves.

create function counterfoil.append_v4(
    p_tenant_id integer,
    -- [{"operation", "principal", "key"?, "traceparent"?, "cause_max"?,
    --   "events": [{"agent_name", "event_type", "payload", "tags", "occurred_at"?,
    --               "caused_by"?, "context"?}],
    --   "condition": {"fail_if": query, "after"?, "incarnation"?}?,
    --   "hands_in"?: {"consumer", "tokens": [[generation, position, attempt], …]},
    --   "rules"?: position, "own"?: true, "effect"?: {…}, "asked"?: {…}}, …]
    -- Of a request with a key, `asked` is what its content is compared by; without it, all of
    -- it but what each try adds.
    p_requests jsonb,
    p_lock_wait_milliseconds integer,
    -- The requests that are not in `others` were stored, in their order: the first of their
    -- events at first_position, and the next at the positions that follow, without gaps.
    out first_position bigint,
    out created_at text,
    -- the book's last position when the group is done
    out head bigint,
    -- how far the book's last time lay ahead of the server's clock
    out clock_ahead_seconds double precision,
    -- whether some process may be waiting to hear of a new head
    out has_listeners boolean,
    -- null, or of each request that was not stored:
    --   {"request": its place in the group, from 0,
    --    "status": replayed, key_reused, frozen, rules_changed, payload_too_large,
    --              book_restored, after_above_head, condition_failed, unknown_cause,
    --              effect_refused, lease_lost or consumer_not_found; or row_busy: nothing is
    --              known of it yet, and it is to be sent again,
    --    "head": the book's last position as this request saw it,
    --    "first_position", "created_at": of the answer that is given again,
    --    "detail": condition_failed: the first positions in the way;
    --              payload_too_large: the event's index; frozen: the freeze's id,
    --    "reason": effect_refused: why, in one word}
    out others jsonb
)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
declare
    -- What one payload may measure as PostgreSQL writes it out (PAYLOAD_BYTES_MAX).
    c_payload_bytes_max constant integer := 262144;
    -- How many events in the way a refusal shows (CONFLICTS_MAX).
    c_conflicts_max constant integer := 20;
    -- Whoever listens for new heads holds this advisory lock, shared (queries.sql, listen).
    c_listeners_lock constant bigint := 7163395187;

    v_requests counterfoil.new_request[];
    v_request counterfoil.new_request;
    v_events counterfoil.new_event[];       -- of all requests, in their order
    v_asked counterfoil.asked_value[];      -- of all conditions
    v_oversized integer[];                  -- requests with a payload that is too large
    v_suspects integer[] := '{}';           -- requests whose condition may be violated
    v_special integer[];                    -- requests that need a look of their own
    v_early jsonb := '{}';                  -- conflicts that were found before the lock
    v_conflicts bigint[];
    v_keyed boolean;                        -- a request of the group has a key
    v_conditional boolean;                  -- or a condition
    v_handing boolean;                      -- or hands in what it holds
    v_holding integer[] := '{}';            -- requests that still hold what they hand in
    v_plain boolean;                        -- or nothing of the group can be refused
    v_seed bytea := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
    v_seen bigint := 0;                     -- the head before the lock
    v_last_time timestamptz;
    v_now timestamptz;
    v_incarnation text;
    v_complete boolean;
    v_nth integer;
    v_stored record;
    v_status text;
    v_detail bigint[];
    v_reason text;
    v_answer jsonb;
    v_rules_min bigint;                     -- what the group was judged under
    v_rules_max bigint;
    v_rules bigint;                         -- what it has to be judged under
    v_freezes boolean;                      -- something in the book may be frozen
    v_freeze bigint;                        -- one that holds a request's events
    v_frozen integer[];                     -- requests that write what is frozen
    v_effect_from integer;                  -- the first request with an effect
    v_before integer;                       -- events of the group before this request
    v_run_from integer := 1;                -- the first accepted, unwritten request
    v_run_before integer := 0;              -- events of the group before that one
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'append_v4 must run at READ COMMITTED: what is committed while it waits must be seen'
            using errcode = 'invalid_transaction_state';
    end if;
    -- Two ways lead here, the caller's setting and the caller's argument, and both must name
    -- the same book: row-level security goes by the first.
    if counterfoil.current_tenant() is distinct from p_tenant_id then
        raise exception 'append_v4 was called for tenant % in a transaction that is not that tenant''s',
            p_tenant_id using errcode = 'insufficient_privilege';
    end if;
    -- An acknowledged event is a flushed event, whatever the role or the database say.
    if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    perform set_config('lock_timeout', p_lock_wait_milliseconds::text, true);

    ---- 1. Before the lock -----------------------------------------------------------

    -- Each event has a salt of its own: a digest of a seed that is kept nowhere and of the
    -- event's place. One salt tells nothing of another, and random bytes for each would cost
    -- as much as the rest of this statement. The innermost subquery is not flattened
    -- (`offset 0`), so that the salt of the digest is the salt that is stored.
    select array_agg(
        row(s.agent_name, s.event_type, s.payload, octet_length(s.payload_text),
            coalesce(s.tags, '{}'), s.occurred_at, coalesce(s.caused_by, '{}'),
            case when s.traceparent is not null
                 then jsonb_build_object('traceparent', s.traceparent) || coalesce(s.context, '{}')
                 else s.context end,
            s.salt, sha256(s.salt || convert_to(s.payload_text, 'UTF8')), s.principal,
            s.request
        )::counterfoil.new_event
        order by s.request, s.nth),
        array_agg(s.request) filter (where octet_length(s.payload_text) > c_payload_bytes_max)
    into v_events, v_oversized
    from (
        select r.nth::integer as request, r.principal, r.traceparent, e.*,
               e.payload::text as payload_text,
               substr(sha256(v_seed || int4send(r.nth::integer) || int4send(e.nth::integer)), 1, 16) as salt
        from rows from (jsonb_to_recordset(p_requests) as (
            principal text, traceparent text, events jsonb)) with ordinality
            as r (principal, traceparent, events, nth)
        cross join lateral rows from (jsonb_to_recordset(r.events) as (
            agent_name text, event_type text, payload jsonb, tags text[],
            occurred_at timestamptz, caused_by bigint[], context jsonb)) with ordinality
            as e (agent_name, event_type, payload, tags, occurred_at, caused_by, context, nth)
        offset 0
    ) as s;

    select array_agg(
               row(r.request ->> 'principal', r.request ->> 'key',
                   -- What must be equal for two requests to be the same: the operation, the
                   -- events and the condition. Not what the transport adds to each try.
                   case when r.request ? 'key' then sha256(convert_to(
                       coalesce(r.request -> 'asked', r.request - array[
                           'principal', 'key', 'traceparent', 'rules'])::text, 'UTF8')) end,
                   r.events_count, r.events_to, (r.request ->> 'cause_max')::bigint,
                   r.request -> 'condition' -> 'fail_if',
                   case when r.request ? 'condition'
                        then coalesce((r.request -> 'condition' ->> 'after')::bigint, 0) end,
                   r.request -> 'condition' ->> 'incarnation',
                   coalesce((r.request ->> 'rules')::bigint, 0), r.request ? 'own',
                   r.request -> 'effect', r.request -> 'hands_in'
               )::counterfoil.new_request order by r.nth),
           bool_or(r.request ? 'key'), bool_or(r.request ? 'condition'),
           bool_or(r.request ? 'hands_in'),
           not bool_or(r.request ?| array['key', 'condition', 'cause_max', 'own', 'hands_in']),
           min(coalesce((r.request ->> 'rules')::bigint, 0)),
           max(coalesce((r.request ->> 'rules')::bigint, 0)),
           -- Counting on with a null would answer `stored` to a group that was not written.
           bool_and(coalesce(r.events_count > 0, false))
    into v_requests, v_keyed, v_conditional, v_handing, v_plain, v_rules_min, v_rules_max, v_complete
    from (
        select e.request, e.nth, jsonb_array_length(e.request -> 'events') as events_count,
               sum(jsonb_array_length(e.request -> 'events')) over (order by e.nth) as events_to
        from jsonb_array_elements(p_requests) with ordinality as e (request, nth)
    ) as r;
    if v_complete is not true then
        raise exception 'every request appends at least one event'
            using errcode = 'invalid_parameter_value';
    end if;
    v_plain := v_plain and v_oversized is null;

    if v_conditional then
        select array_agg(row(r.nth, i.nth, w.way, v.value,
                             case when w.way = 'tag' then jsonb_array_length(w.values) else 1 end,
                             r.after)::counterfoil.asked_value)
        into v_asked
        from unnest(v_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, hands_in, nth)
        left join lateral jsonb_array_elements(r.fail_if) with ordinality as i (item, nth) on true
        left join lateral (
            select case when i.item -> 'tags' <> '[]' then 'tag'
                        when i.item -> 'agents' <> '[]' then 'agent'
                        when i.item -> 'types' <> '[]' then 'type' end as way,
                   coalesce(nullif(i.item -> 'tags', '[]'), nullif(i.item -> 'agents', '[]'),
                            i.item -> 'types') as values
        ) as w on true
        left join lateral jsonb_array_elements_text(w.values) as v (value) on true
        where r.after is not null;

        select e.position into v_seen from counterfoil.events e
        where e.tenant_id = p_tenant_id order by e.position desc limit 1;
        v_seen := coalesce(v_seen, 0);
        -- Many of these are no violations: a tag that others bear too, under another type. Held
        -- against the rule here, outside the lock, they need no look of their own under it.
        -- A condition without a query asks nothing, and any event of the group violates it.
        foreach v_nth in array
            coalesce(counterfoil.may_match(p_tenant_id, v_asked, 0, v_seen), '{}')
        loop
            v_conflicts := array(
                select counterfoil.matching_v1(
                    p_tenant_id, v_requests[v_nth].fail_if, null,
                    v_requests[v_nth].condition_after, v_seen, c_conflicts_max, false));
            if v_conflicts <> '{}' or v_requests[v_nth].fail_if is null then
                v_early := jsonb_set(v_early, array[v_nth::text], to_jsonb(v_conflicts));
                v_suspects := v_suspects || v_nth;
            end if;
        end loop;
        v_suspects := array_cat(v_suspects, counterfoil.may_match_in_group(v_asked, v_events));
    end if;

    ---- 2. The lock ------------------------------------------------------------------

    select b.incarnation::text into v_incarnation from counterfoil.books b
    where b.tenant_id = p_tenant_id for no key update;
    if not found then
        raise exception 'there is no book of tenant %', p_tenant_id
            using errcode = 'no_data_found';
    end if;

    ---- 3. Under the lock ------------------------------------------------------------

    select e.position, e.created_at into head, v_last_time from counterfoil.events e
    where e.tenant_id = p_tenant_id order by e.position desc limit 1;
    head := coalesce(head, 0);
    first_position := head + 1;
    v_now := clock_timestamp();
    clock_ahead_seconds := greatest(extract(epoch from v_last_time - v_now), 0);
    v_now := greatest(v_last_time, v_now);
    created_at := counterfoil.time_text(v_now);
    -- Given back at the commit. Another book's append that holds it at this moment makes us
    -- ring in vain, which costs little; a listener is never missed.
    has_listeners := not pg_try_advisory_xact_lock(c_listeners_lock);

    select r.position into v_rules from counterfoil.rules r where r.tenant_id = p_tenant_id;
    v_rules := coalesce(v_rules, 0);
    v_freezes := exists (select from counterfoil.freezes f where f.tenant_id = p_tenant_id);

    if v_plain and not v_freezes and v_rules_min = v_rules and v_rules_max = v_rules then
        perform counterfoil.write_run(
            p_tenant_id, v_events, v_requests, 0, head, v_now, false);
        head := head + cardinality(v_events);
        return;
    end if;

    if v_conditional and head > v_seen then
        v_suspects := array_cat(
            v_suspects, counterfoil.may_match(p_tenant_id, v_asked, v_seen, head));
    end if;
    if v_freezes then
        v_frozen := counterfoil.frozen_requests(p_tenant_id, v_events, v_now);
    end if;
    if v_handing then
        v_holding := counterfoil.holders_in_group(
            p_tenant_id, counterfoil.tokens_in_force(p_tenant_id, v_requests));
    end if;
    v_effect_from := (
        select min(r.nth)
        from unnest(v_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, hands_in, nth)
        where r.effect is not null);
    select array_agg(r.nth order by r.nth) into v_special
    from (
        select r.*, count(*) over (partition by r.principal, r.key) as bearers
        from unnest(v_requests) with ordinality as r (
            principal, key, content_digest, events_count, events_to, cause_max, fail_if,
            after, incarnation, rules, own, effect, hands_in, nth)
    ) as r
    where r.nth = any (v_suspects)
       or r.nth = any (v_oversized)
       or r.nth = any (v_frozen)
       or r.nth >= v_effect_from
       or r.rules <> v_rules
       or r.hands_in is not null and (
           r.nth <> all (v_holding)
           or exists (select from counterfoil.consumer_calls c
                      where c.tenant_id = p_tenant_id and c.principal = r.principal and c.key = r.key
                      offset 0))
       or r.cause_max > head
       or r.after > head
       or r.incarnation <> v_incarnation
       or r.key is not null and (
           r.bearers > 1
           or exists (select from counterfoil.idempotency_keys k
                      where k.tenant_id = p_tenant_id and k.principal = r.principal and k.key = r.key
                      offset 0));

    foreach v_nth in array coalesce(v_special, '{}') loop
        v_request := v_requests[v_nth];
        v_before := v_request.events_to - v_request.events_count;
        v_status := null;
        v_detail := null;
        v_reason := null;
        -- Those before it are accepted and count: they must be in the tables before these
        -- are asked.
        if v_run_before < v_before then
            perform counterfoil.write_run(
                p_tenant_id, v_events[v_run_before + 1 : v_before],
                v_requests[v_run_from : v_nth - 1], v_run_before, head, v_now, v_keyed);
            head := head + v_before - v_run_before;
        end if;
        v_run_from := v_nth;
        v_run_before := v_before;

        -- The key comes before all else: a success that is asked for again must not be
        -- refused by its own event.
        if v_request.key is not null then
            select k.content_digest, k.first_position, k.created_at into v_stored
            from counterfoil.idempotency_keys k
            where k.tenant_id = p_tenant_id and k.principal = v_request.principal
              and k.key = v_request.key;
            if found then
                if v_stored.content_digest = v_request.content_digest then
                    v_status := 'replayed';
                else
                    v_status := 'key_reused';
                end if;
            elsif v_request.hands_in is not null and exists (
                select from counterfoil.consumer_calls c
                where c.tenant_id = p_tenant_id and c.principal = v_request.principal
                  and c.key = v_request.key)
            then
                v_status := 'key_reused';
            end if;
        end if;

        if v_status is null and not v_request.own then
            if v_freezes then
                v_freeze := counterfoil.freeze_in_the_way(
                    p_tenant_id, v_events[v_before + 1 : v_request.events_to], v_now);
                if v_freeze is not null then
                    v_status := 'frozen';
                    v_detail := array[v_freeze];
                end if;
            end if;
            if v_status is null and v_request.rules <> v_rules then
                v_status := 'rules_changed';
            end if;
        end if;

        if v_status is null and v_nth = any (v_oversized) then
            v_status := 'payload_too_large';
            v_detail := array(
                select e.nth - 1
                from unnest(v_events[v_before + 1 : v_request.events_to]) with ordinality as e (
                    agent_name, event_type, payload, payload_bytes, tags, occurred_at, caused_by,
                    context, salt, digest, principal, request, nth)
                where e.payload_bytes > c_payload_bytes_max order by e.nth limit 1);
        end if;

        -- What holders_in_group has seen holds but for what an effect has changed since.
        if v_status is null and v_request.hands_in is not null
           and (v_nth <> all (v_holding) or v_effect_from < v_nth)
        then
            v_status := counterfoil.hand_in_fault(
                p_tenant_id, v_request.hands_in, counterfoil.tokens_of(array[v_request]));
        end if;

        if v_status is null and v_request.condition_after is not null then
            if v_request.condition_incarnation <> v_incarnation then
                v_status := 'book_restored';
            elsif v_request.condition_after > head then
                v_status := 'after_above_head';
            else
                v_conflicts := array(
                    select jsonb_array_elements_text(v_early -> v_nth::text)::bigint);
                if cardinality(v_conflicts) < c_conflicts_max then
                    v_conflicts := v_conflicts || array(
                        select counterfoil.matching_v1(
                            p_tenant_id, v_request.fail_if, null,
                            greatest(v_request.condition_after, v_seen), head,
                            c_conflicts_max - cardinality(v_conflicts), false));
                end if;
                if cardinality(v_conflicts) > 0 then
                    v_status := 'condition_failed';
                    v_detail := v_conflicts;
                end if;
            end if;
        end if;

        if v_status is null and v_request.cause_max > head then
            v_status := 'unknown_cause';
        end if;

        if v_status is null and v_request.effect is not null then
            v_reason := counterfoil.apply_effect(
                p_tenant_id, v_request.effect, head + 1, v_now);
            if v_reason = 'row_busy' then
                v_status := 'row_busy';
                v_reason := null;
            elsif v_reason is not null then
                v_status := 'effect_refused';
            else
                -- Those behind it are judged by what it changed.
                v_freezes := true;
                select coalesce(max(r.position), 0) into v_rules
                from counterfoil.rules r where r.tenant_id = p_tenant_id;
            end if;
        end if;

        if v_status is not null then
            v_answer := jsonb_build_object(
                'request', v_nth - 1, 'status', v_status, 'head', head, 'detail', v_detail);
            if v_reason is not null then
                v_answer := v_answer || jsonb_build_object('reason', v_reason);
            end if;
            if v_request.hands_in is not null and v_status = 'condition_failed' then
                v_answer := v_answer || jsonb_build_object('lease_ends', counterfoil.time_text(
                    counterfoil.lease_ends(p_tenant_id, counterfoil.tokens_of(array[v_request]))));
            end if;
            if v_status = 'replayed' then
                v_answer := v_answer || jsonb_build_object(
                    'first_position', v_stored.first_position,
                    'created_at', counterfoil.time_text(v_stored.created_at));
            end if;
            others := coalesce(others, '[]') || v_answer;
            v_run_from := v_nth + 1;
            v_run_before := v_request.events_to;
        end if;
    end loop;

    if v_run_before < cardinality(v_events) then
        perform counterfoil.write_run(
            p_tenant_id, v_events[v_run_before + 1 :], v_requests[v_run_from :], v_run_before,
            head, v_now, v_keyed);
        head := head + cardinality(v_events) - v_run_before;
    end if;
end
$$;

-- Applies the effect of one of the service's own events. Null: done. Otherwise why it cannot
-- be, in one word, and then nothing was changed.
create or replace function counterfoil.apply_effect(
    p_tenant_id integer,
    p_effect jsonb,
    p_position bigint,      -- the event's
    p_now timestamptz
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Each has its reason in core/limits.py (KEYS_MAX, EVENT_TYPES_MAX, FREEZES_MAX).
    c_keys_max constant integer := 10000;
    c_event_types_max constant integer := 1000;
    c_freezes_max constant integer := 10000;
    v_key counterfoil.keys;
    v_version integer;
begin
    case p_effect ->> 'effect'

    when 'none' then
        null;

    when 'create_key' then
        if counterfoil.keys_in_force(p_tenant_id, p_now) >= c_keys_max then
            return 'too_many';
        end if;
        perform counterfoil.add_key(p_tenant_id, p_effect -> 'key', p_position, p_now);

    when 'rotate_key' then
        select * into v_key from counterfoil.keys k
        where k.tenant_id = p_tenant_id and k.key_id = p_effect ->> 'key_id';
        if not found then
            return 'key_not_found';
        elsif v_key.revoked_at is not null or v_key.expires_at <= p_now then
            return 'key_not_active';
        elsif counterfoil.keys_in_force(p_tenant_id, p_now) >= c_keys_max then
            return 'too_many';
        end if;
        perform counterfoil.add_key(p_tenant_id, p_effect -> 'key', p_position, p_now);
        update counterfoil.keys k
        set expires_at = least(
            k.expires_at, p_now + (p_effect ->> 'overlap_seconds')::integer * interval '1 second')
        where k.tenant_id = p_tenant_id and k.key_id = v_key.key_id;

    when 'revoke_key' then
        update counterfoil.keys k set revoked_at = p_now
        where k.tenant_id = p_tenant_id and k.key_id = p_effect ->> 'key_id'
          and k.revoked_at is null;
        if not found then
            return case when exists (
                select from counterfoil.keys k
                where k.tenant_id = p_tenant_id and k.key_id = p_effect ->> 'key_id'
            ) then 'unchanged' else 'key_not_found' end;
        end if;

    when 'register_event_type' then
        select max(t.version) into v_version from counterfoil.event_types t
        where t.tenant_id = p_tenant_id and t.event_type = p_effect ->> 'event_type';
        -- It was compared with the version before it, and with no other.
        if coalesce(v_version, 0) + 1 <> (p_effect ->> 'version')::integer then
            return 'version_taken';
        elsif v_version is null and (
            select count(distinct t.event_type) from counterfoil.event_types t
            where t.tenant_id = p_tenant_id) >= c_event_types_max
        then
            return 'too_many';
        end if;
        insert into counterfoil.event_types (
            tenant_id, event_type, version, position, schema, narrowing, reason, registered_at,
            registered_by)
        values (
            p_tenant_id, p_effect ->> 'event_type', (p_effect ->> 'version')::integer, p_position,
            p_effect -> 'schema', (p_effect ->> 'narrowing')::boolean, p_effect ->> 'reason',
            p_now, p_effect ->> 'by');
        insert into counterfoil.rules as r (tenant_id, position) values (p_tenant_id, p_position)
        on conflict on constraint rules_pkey do update set position = excluded.position;

    when 'change_settings' then
        insert into counterfoil.rules as r (tenant_id, position, unregistered_types)
        values (p_tenant_id, p_position, p_effect ->> 'unregistered_types')
        on conflict on constraint rules_pkey do update
        set position = excluded.position, unregistered_types = excluded.unregistered_types
        where r.unregistered_types <> excluded.unregistered_types;
        if not found then
            return 'unchanged';
        end if;

    when 'freeze' then
        -- Those that have ended hold nothing any more, and cost every append a look.
        delete from counterfoil.freezes f where f.tenant_id = p_tenant_id and f.until <= p_now;
        if (p_effect ->> 'until')::timestamptz <= p_now then
            return 'ends_in_the_past';
        elsif (select count(*) from counterfoil.freezes f
               where f.tenant_id = p_tenant_id) >= c_freezes_max then
            return 'too_many';
        end if;
        insert into counterfoil.freezes (
            tenant_id, position, kind, subject, reason, until, frozen_at, frozen_by)
        values (
            p_tenant_id, p_position, p_effect ->> 'kind', p_effect ->> 'subject',
            p_effect ->> 'reason', (p_effect ->> 'until')::timestamptz, p_now, p_effect ->> 'by');

    when 'thaw' then
        delete from counterfoil.freezes f
        where f.tenant_id = p_tenant_id and f.position = (p_effect ->> 'id')::bigint
          and (f.until is null or f.until > p_now);
        if not found then
            return 'freeze_not_found';
        end if;

    when 'put_consumer' then
        return counterfoil.put_consumer(p_tenant_id, p_effect, p_position, p_now);

    when 'change_consumer' then
        return counterfoil.change_consumer(p_tenant_id, p_effect, p_position);

    when 'set_aside' then
        return counterfoil.set_aside(p_tenant_id, p_effect, p_position, p_now);

    when 'replay_dead_letters' then
        return counterfoil.replay_dead_letters(p_tenant_id, p_effect);

    when 'drop_dead_letters' then
        return counterfoil.drop_dead_letters(p_tenant_id, p_effect);

    when 'open_book' then
        return counterfoil.open_book(p_effect, p_now);

    end case;
    return null;
end
$$;

do $$
declare
    v_table text;
begin
    foreach v_table in array array['delivery_keys', 'dead_letters'] loop
        execute format('alter table counterfoil.%I enable row level security', v_table);
        execute format('alter table counterfoil.%I force row level security', v_table);
        execute format(
            'create policy own_tenant_only on counterfoil.%I using (tenant_id = counterfoil.current_tenant())',
            v_table);
    end loop;
end
$$;

-- Asked for by name, all tenants' are seen together: by who looks after them all
-- (consumers_in_need_v1). Written are only the tenant's own.
do $$
declare
    v_table text;
begin
    foreach v_table in array array[
        'consumers', 'consumer_progress', 'deliveries', 'consumer_calls'
    ] loop
        execute format('alter table counterfoil.%I enable row level security', v_table);
        execute format('alter table counterfoil.%I force row level security', v_table);
        execute format(
            'create policy own_tenant_only on counterfoil.%I using (tenant_id = counterfoil.current_tenant())',
            v_table);
        execute format(
            'create policy looked_after on counterfoil.%I for select using (current_setting(''counterfoil.consumers'', true) = ''all'')',
            v_table);
    end loop;
end
$$;

revoke all on counterfoil.consumers, counterfoil.consumer_progress, counterfoil.deliveries,
    counterfoil.delivery_keys, counterfoil.dead_letters, counterfoil.consumer_calls from public;
revoke all on all functions in schema counterfoil from public;

grant select on counterfoil.consumers, counterfoil.consumer_progress, counterfoil.deliveries,
    counterfoil.dead_letters to counterfoil_service;
grant execute on function
    counterfoil.append_v4(integer, jsonb, integer),
    counterfoil.consume_v1(integer, text, jsonb, boolean, integer),
    counterfoil.consumer_text(counterfoil.consumers),
    counterfoil.consumers_in_need_v1(),
    counterfoil.consumer_states_v1(integer),
    counterfoil.clear_consumers_v1(integer)
    to counterfoil_service;
