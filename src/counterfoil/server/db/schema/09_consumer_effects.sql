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
        v_fault := (
            select f.fault from counterfoil.hand_in_fault(p_tenant_id, p_effect, v_tokens) as f);
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
