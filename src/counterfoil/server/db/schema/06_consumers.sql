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
--   2. deliveries that somebody names by token, in the order of their positions. consume_v2
--      waits for these, without the head.
--   3. those who are next in line behind them, in the same order.
--   4. the consumer's progress. Who holds it waits for nothing any more: claiming and joining
--      lines pass over what is locked.
--
-- Before all of these, consume_v2 waits for the idempotency keys of its calls; append_v4 has no
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

-- Who would join which lines, and whether they have to wait there. Null: that cannot be told
-- now, because somebody is about to leave.
create type counterfoil.joining as (
    position bigint,
    keys text[],
    waits boolean
);

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
