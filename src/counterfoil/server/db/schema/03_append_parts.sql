-- What the append is made of: the shapes that it works with, its probes, and its pen. How
-- they work together stands at the top of 04_append.sql.

-- One event, taken apart and digested, before it has a position.
create type counterfoil.new_event as (
    agent_name text,
    event_type text,
    payload jsonb,
    payload_bytes integer,
    tags text[],
    occurred_at timestamptz,
    caused_by bigint[],
    context jsonb,
    salt bytea,
    digest bytea,
    principal text,
    -- which request of the group it belongs to, counted from 1
    request integer
);

-- One request, taken apart.
create type counterfoil.new_request as (
    principal text,
    key text,
    -- of the content, where there is a key
    content_digest bytea,
    events_count integer,
    -- how many events the group has up to and including this request
    events_to integer,
    -- the highest id that one of its events names as its cause
    cause_max bigint,
    fail_if jsonb,
    condition_after bigint,
    condition_incarnation text,
    -- the position of the last change of rules that it was judged under
    rules bigint,
    -- the service's own: held by no freeze, and judged by no rules
    own boolean,
    effect jsonb,
    -- what it hands in: {"consumer": name, "tokens": [[generation, position, attempt], …]}
    hands_in jsonb
);

-- One value that an item of a condition asks for. Of an item that asks for tags these are
-- its tags, and an event matches it only if all of them occur: `wanted` is their number. Of
-- any other they are its agents, or else its types, and `wanted` is 1.
create type counterfoil.asked_value as (
    request integer,
    item integer,
    way text,           -- tag, agent or type; null where the item asks nothing at all
    value text,
    wanted integer,
    after bigint
);

-- A delivery that its holder still has, locked, and that a request of the group hands in.
create type counterfoil.held_delivery as (
    request integer,
    generation bigint,
    position bigint,
    due_at timestamptz,
    keys text[],
    place tid               -- where its row is; it stays there for as long as it is locked
);

-- Which requests' conditions may be violated by an event in p_after < position <= p_up_to,
-- looked at no further back than each condition's own `after`. One probe of an index for
-- each value. It tells too many: an item that asks for tags is judged by its tags alone,
-- and by each for itself. It never tells too few.
create function counterfoil.may_match(
    p_tenant_id integer,
    p_asked counterfoil.asked_value[],
    p_after bigint,         -- exclusive
    p_up_to bigint          -- inclusive
) returns integer[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
begin
    return (select array_agg(distinct suspect.request)
    from (
        select a.request
        from unnest(p_asked) as a
        where case a.way
            when 'tag' then (
                select true from counterfoil.event_tags t
                where t.tenant_id = p_tenant_id and t.tag = a.value
                  and t.position > greatest(a.after, p_after) and t.position <= p_up_to
                limit 1)
            when 'agent' then (
                select true from counterfoil.events e
                where e.tenant_id = p_tenant_id
                  and (e.agent_name, e.position) > (a.value, greatest(a.after, p_after))
                  and (e.agent_name, e.position) <= (a.value, p_up_to)
                order by e.agent_name, e.position limit 1)
            when 'type' then (
                select true from counterfoil.events e
                where e.tenant_id = p_tenant_id
                  and (e.event_type, e.position) > (a.value, greatest(a.after, p_after))
                  and (e.event_type, e.position) <= (a.value, p_up_to)
                order by e.event_type, e.position limit 1)
            else true
        end
        group by a.request, a.item, a.wanted
        having count(*) >= a.wanted
    ) as suspect);
end
$$;

-- Which requests' conditions may be violated by an event of an earlier request of the same
-- group. It tells too many as may_match does, and never too few.
create function counterfoil.may_match_in_group(
    p_asked counterfoil.asked_value[],
    p_events counterfoil.new_event[]
) returns integer[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
as $$
begin
    return (select array_agg(distinct suspect.request)
    from (
        select a.request
        from unnest(p_asked) as a
        join (
            select 'tag' as way, t.tag as value, min(e.request) as request
            from unnest(p_events) as e cross join lateral unnest(e.tags) as t (tag)
            group by t.tag
            union all
            select 'agent', e.agent_name, min(e.request)
            from unnest(p_events) as e group by e.agent_name
            union all
            select 'type', e.event_type, min(e.request)
            from unnest(p_events) as e group by e.event_type
        ) as given on given.way = a.way and given.value = a.value and given.request < a.request
        group by a.request, a.item, a.wanted
        having count(*) >= a.wanted
    ) as suspect);
end
$$;

-- Writes a run of accepted requests: their events at the positions after p_head, their tags
-- and their keys; and takes what they hand in out of their hands. Only append_v4 may call it, under
-- the lock.
create function counterfoil.write_run(
    p_tenant_id integer,
    p_events counterfoil.new_event[],
    p_requests counterfoil.new_request[],
    -- where the run begins in its group: how many events are before it
    p_events_before integer,
    p_head bigint,
    p_created_at timestamptz,
    p_keyed boolean,
    -- what these requests hand in, locked
    p_held counterfoil.held_delivery[] default '{}'
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

    if p_held <> '{}' then
        perform counterfoil.hand_in(p_tenant_id, p_held);
    end if;
end
$$;
