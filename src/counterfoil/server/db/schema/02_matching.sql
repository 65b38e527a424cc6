-- What a query matches. One definition serves reads, streams and conditions alike: a
-- guard that reads by a query and then writes under it must mean the same twice.
--
-- An event matches a query if it matches any of its items. It matches an item if its
-- type is any of `types`, its agent any of `agents`, and it bears all of `tags`; what an
-- item leaves out, it does not ask. A null query asks nothing: every event matches.
--
-- Each item is looked up by one of what it asks (a tag, its agents, or its types), and
-- what that finds is held against the rest: the way with the fewest events to walk, where
-- the range is wide enough for the choice to matter. Every statement below walks one
-- index in the order of positions and stops at the limit, so that its cost follows what
-- it returns and not the size of the book. That must not hang on statistics, which a new
-- or restored book has none of:
--   * `offset 0` keeps the planner from turning a probe of one row into a hash of all;
--   * an agent (or a type) and a position are bounded together, as a row, and ordered so:
--     only the index on just these gives that order. With `agent_name = …` the planner
--     may take the primary key for its order, and read the whole book for a rare agent;
--   * bitmap and sequential scans are off: both read all that could match and sort it;
--   * the plans are generic, and so the same at every call, and never compiled: that takes
--     longer than such a walk, and a large book's estimates would ask for it.
--
-- STABLE is a promise that matters here: the function looks through the snapshot of the
-- statement that calls it. A page and its head are one snapshot for that reason, and a
-- condition's check sees what was committed while its statement before waited for the lock.
create function counterfoil.matching_v1(
    p_tenant_id integer,
    p_query jsonb,          -- [{"types": [], "agents": [], "tags": []}, …], or null
    p_payload jsonb,        -- what the payload must contain (@>), or null
    p_after bigint,         -- exclusive
    p_up_to bigint,         -- inclusive
    p_limit integer,
    p_newest_first boolean
) returns setof bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
rows 100
as $$
declare
    -- Enough to tell rare from common. A range of no more positions is walked as it is.
    c_probe_events constant integer := 1000;
    -- Of a tag with fewer events than this, looking at them all costs less than looking for a
    -- better way. Most queries name such a one: an application, a transaction.
    c_rare_events constant integer := 50;
    v_found bigint[] := '{}';
    v_item record;
    v_way text;
    v_lead text;
    v_tag text;
    v_rare bigint[];        -- what bears a tag that few do
    v_tag_alone boolean;
    -- What one item has found by a tag is in order as it is.
    v_in_order boolean := jsonb_array_length(p_query) = 1;
begin
    if p_query is null then
        if p_newest_first then
            return query
                select e.position from counterfoil.events e
                where e.tenant_id = p_tenant_id and e.position > p_after and e.position <= p_up_to
                  and (p_payload is null or e.payload @> p_payload)
                order by e.position desc limit p_limit;
        else
            return query
                select e.position from counterfoil.events e
                where e.tenant_id = p_tenant_id and e.position > p_after and e.position <= p_up_to
                  and (p_payload is null or e.payload @> p_payload)
                order by e.position limit p_limit;
        end if;
        return;
    end if;

    for v_item in
        select nullif(i.types, '{}') as types,
               nullif(i.agents, '{}') as agents,
               nullif(i.tags, '{}') as tags
        from jsonb_to_recordset(p_query) as i (types text[], agents text[], tags text[])
    loop
        v_way := case
            when v_item.tags is not null then 'tag'
            when v_item.agents is not null then 'agents'
            when v_item.types is not null then 'types'
        end;
        v_lead := v_item.tags[1];
        v_rare := null;
        if p_up_to - p_after > c_probe_events
           and coalesce(cardinality(v_item.tags), 0) + (v_item.agents is not null)::integer
               + (v_item.types is not null)::integer > 1 then
            foreach v_tag in array coalesce(v_item.tags, '{}') loop
                v_rare := array(
                    select t.position from counterfoil.event_tags t
                    where t.tenant_id = p_tenant_id and t.tag = v_tag
                      and t.position > p_after and t.position <= p_up_to
                    limit c_rare_events);
                exit when cardinality(v_rare) < c_rare_events;
            end loop;
            if cardinality(v_rare) < c_rare_events then
                v_found := v_found || array(
                    select r.position
                    from unnest(v_rare) as r (position)
                    where exists (
                        select from counterfoil.events e
                        where e.tenant_id = p_tenant_id and e.position = r.position
                          and e.tags @> v_item.tags
                          and (v_item.types is null or e.event_type = any (v_item.types))
                          and (v_item.agents is null or e.agent_name = any (v_item.agents))
                          and (p_payload is null or e.payload @> p_payload)
                        offset 0)
                    order by case when p_newest_first then -r.position else r.position end
                    limit p_limit);
                continue;
            end if;
            select way.name, way.tag into v_way, v_lead
            from (
                select 'tag' as name, wanted.tag, (
                    select count(*) from (
                        select from counterfoil.event_tags t
                        where t.tenant_id = p_tenant_id and t.tag = wanted.tag
                          and t.position > p_after and t.position <= p_up_to
                        limit c_probe_events
                    ) as probe) as events
                from unnest(v_item.tags) as wanted (tag)
                union all
                select 'agents', null, (
                    select count(*) from (
                        select from unnest(v_item.agents) as wanted (agent_name)
                        cross join lateral (
                            select from counterfoil.events e
                            where e.tenant_id = p_tenant_id
                              and (e.agent_name, e.position) > (wanted.agent_name, p_after)
                              and (e.agent_name, e.position) <= (wanted.agent_name, p_up_to)
                            order by e.agent_name, e.position limit c_probe_events
                        ) as by_agent
                        limit c_probe_events
                    ) as probe)
                where v_item.agents is not null
                union all
                select 'types', null, (
                    select count(*) from (
                        select from unnest(v_item.types) as wanted (event_type)
                        cross join lateral (
                            select from counterfoil.events e
                            where e.tenant_id = p_tenant_id
                              and (e.event_type, e.position) > (wanted.event_type, p_after)
                              and (e.event_type, e.position) <= (wanted.event_type, p_up_to)
                            order by e.event_type, e.position limit c_probe_events
                        ) as by_type
                        limit c_probe_events
                    ) as probe)
                where v_item.types is not null
            ) as way
            -- Where several are as common as can be told, not by a tag: there each event
            -- costs a lookup of its row, which the other two walk along anyway.
            order by way.events, way.name = 'tag' limit 1;
        end if;

        v_in_order := v_in_order and v_way = 'tag';
        if v_way = 'tag' then
            v_tag_alone := cardinality(v_item.tags) = 1 and v_item.types is null
                and v_item.agents is null and p_payload is null;
            if p_newest_first then
                v_found := v_found || array(
                    select t.position from counterfoil.event_tags t
                    where t.tenant_id = p_tenant_id and t.tag = v_lead
                      and t.position > p_after and t.position <= p_up_to
                      and (v_tag_alone or exists (
                          select from counterfoil.events e
                          where e.tenant_id = p_tenant_id and e.position = t.position
                            and e.tags @> v_item.tags
                            and (v_item.types is null or e.event_type = any (v_item.types))
                            and (v_item.agents is null or e.agent_name = any (v_item.agents))
                            and (p_payload is null or e.payload @> p_payload)
                          offset 0))
                    order by t.position desc limit p_limit);
            else
                v_found := v_found || array(
                    select t.position from counterfoil.event_tags t
                    where t.tenant_id = p_tenant_id and t.tag = v_lead
                      and t.position > p_after and t.position <= p_up_to
                      and (v_tag_alone or exists (
                          select from counterfoil.events e
                          where e.tenant_id = p_tenant_id and e.position = t.position
                            and e.tags @> v_item.tags
                            and (v_item.types is null or e.event_type = any (v_item.types))
                            and (v_item.agents is null or e.agent_name = any (v_item.agents))
                            and (p_payload is null or e.payload @> p_payload)
                          offset 0))
                    order by t.position limit p_limit);
            end if;
        elsif v_way = 'agents' then
            if p_newest_first then
                v_found := v_found || array(
                    select by_agent.position
                    from unnest(v_item.agents) as wanted (agent_name)
                    cross join lateral (
                        select e.position from counterfoil.events e
                        where e.tenant_id = p_tenant_id
                          and (e.agent_name, e.position) > (wanted.agent_name, p_after)
                          and (e.agent_name, e.position) <= (wanted.agent_name, p_up_to)
                          and (v_item.types is null or e.event_type = any (v_item.types))
                          and (v_item.tags is null or e.tags @> v_item.tags)
                          and (p_payload is null or e.payload @> p_payload)
                        order by e.agent_name desc, e.position desc limit p_limit
                    ) as by_agent);
            else
                v_found := v_found || array(
                    select by_agent.position
                    from unnest(v_item.agents) as wanted (agent_name)
                    cross join lateral (
                        select e.position from counterfoil.events e
                        where e.tenant_id = p_tenant_id
                          and (e.agent_name, e.position) > (wanted.agent_name, p_after)
                          and (e.agent_name, e.position) <= (wanted.agent_name, p_up_to)
                          and (v_item.types is null or e.event_type = any (v_item.types))
                          and (v_item.tags is null or e.tags @> v_item.tags)
                          and (p_payload is null or e.payload @> p_payload)
                        order by e.agent_name, e.position limit p_limit
                    ) as by_agent);
            end if;
        elsif v_way = 'types' then
            if p_newest_first then
                v_found := v_found || array(
                    select by_type.position
                    from unnest(v_item.types) as wanted (event_type)
                    cross join lateral (
                        select e.position from counterfoil.events e
                        where e.tenant_id = p_tenant_id
                          and (e.event_type, e.position) > (wanted.event_type, p_after)
                          and (e.event_type, e.position) <= (wanted.event_type, p_up_to)
                          and (v_item.agents is null or e.agent_name = any (v_item.agents))
                          and (v_item.tags is null or e.tags @> v_item.tags)
                          and (p_payload is null or e.payload @> p_payload)
                        order by e.event_type desc, e.position desc limit p_limit
                    ) as by_type);
            else
                v_found := v_found || array(
                    select by_type.position
                    from unnest(v_item.types) as wanted (event_type)
                    cross join lateral (
                        select e.position from counterfoil.events e
                        where e.tenant_id = p_tenant_id
                          and (e.event_type, e.position) > (wanted.event_type, p_after)
                          and (e.event_type, e.position) <= (wanted.event_type, p_up_to)
                          and (v_item.agents is null or e.agent_name = any (v_item.agents))
                          and (v_item.tags is null or e.tags @> v_item.tags)
                          and (p_payload is null or e.payload @> p_payload)
                        order by e.event_type, e.position limit p_limit
                    ) as by_type);
            end if;
        else
            raise exception 'an item of a query must ask for a type, an agent or a tag'
                using errcode = 'invalid_parameter_value';
        end if;
    end loop;

    if v_in_order then
        return query select unnest(v_found);
    elsif p_newest_first then
        return query select distinct f.position from unnest(v_found) as f (position)
            order by f.position desc limit p_limit;
    else
        return query select distinct f.position from unnest(v_found) as f (position)
            order by f.position limit p_limit;
    end if;
end
$$;

-- Whether one event matches a query: the same rule, for events that were found already.
create function counterfoil.event_matches(e counterfoil.events, p_query jsonb) returns boolean
language sql stable
return exists (
    select
    from jsonb_to_recordset(p_query) as i (types text[], agents text[], tags text[])
    where (coalesce(i.types, '{}') = '{}' or e.event_type = any (i.types))
      and (coalesce(i.agents, '{}') = '{}' or e.agent_name = any (i.agents))
      and e.tags @> coalesce(i.tags, '{}'));

-- A time as the service writes it everywhere: ISO 8601, UTC, six digits, with its offset.
create function counterfoil.time_text(p_time timestamptz) returns text
language sql stable parallel safe
return to_char(p_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"');

-- An event as the service shows it. The payload is PostgreSQL's own text: nothing on the
-- way to the caller builds it anew, so no number can lose a digit.
create function counterfoil.event_text(e counterfoil.events) returns text
language sql stable parallel safe
return '{"id":' || e.position
    || ',"agent_name":' || to_json(e.agent_name)
    || ',"event_type":' || to_json(e.event_type)
    || ',"payload":' || coalesce(e.payload::text, 'null')
    || ',"tags":' || to_json(e.tags)
    || ',"created_at":"' || counterfoil.time_text(e.created_at)
    || '","occurred_at":' || coalesce('"' || counterfoil.time_text(e.occurred_at) || '"', 'null')
    || ',"caused_by":' || to_json(e.caused_by)
    || ',"context":' || coalesce(e.context::text, 'null')
    || '}';
