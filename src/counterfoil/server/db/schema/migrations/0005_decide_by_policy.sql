-- Policies: versioned rules, by which decisions are made. A decision itself is an event, and
-- nothing else: which one stands, and on what it rests, is asked of the book.
--
-- A version is drafted, activated by somebody else, and retired when another takes its place.
-- What it says never changes; of its row, only what became of it.

create table counterfoil.policies (
    tenant_id integer not null,
    name text collate "C" not null,
    version integer not null,
    -- of the event that drafted it
    position bigint not null,
    -- As it was judged: canonical JSON, byte for byte what the digest is of. Not jsonb, which
    -- would write numbers in its own way.
    document text collate "C" not null,
    digest bytea not null,
    state text collate "C" not null default 'draft',
    drafted_at timestamptz not null,
    drafted_by text collate "C" not null,
    activated_at timestamptz,
    activated_by text collate "C",
    retired_at timestamptz,
    retired_by text collate "C",
    constraint policies_pkey primary key (tenant_id, name, version),
    constraint policy_version_is_positive check (version > 0),
    constraint policy_state_is_known check (state in ('draft', 'active', 'retired')),
    constraint policy_digest_is_of_its_document check (
        digest = sha256(convert_to(document, 'UTF8'))),
    constraint policy_was_activated_by_somebody check (
        (state = 'draft') = (activated_by is null)
        and (activated_at is null) = (activated_by is null)),
    constraint policy_was_retired_by_somebody check (
        (state = 'retired') = (retired_by is not null)
        and (retired_at is null) = (retired_by is null)),
    -- Four eyes, held by the table too: `person:ada` and `admin:ada` are one and the same.
    constraint policy_was_activated_by_another check (
        substring(activated_by from position(':' in activated_by) + 1)
            <> substring(drafted_by from position(':' in drafted_by) + 1))
);

-- One at most of each name is in force.
create unique index policies_in_force on counterfoil.policies (tenant_id, name)
    where state = 'active';

-- What a version says is what its decisions were made by: it stays as it is.
create function counterfoil.refuse_change_of_a_policy() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if row(new.tenant_id, new.name, new.version, new.position, new.document, new.digest,
           new.drafted_at, new.drafted_by)
       is distinct from row(old.tenant_id, old.name, old.version, old.position, old.document,
                            old.digest, old.drafted_at, old.drafted_by)
    then
        raise exception 'a version of a policy can be activated and retired, never changed'
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

create trigger policies_say_the_same_for_ever before update on counterfoil.policies
    for each row execute function counterfoil.refuse_change_of_a_policy();
create trigger policies_stay before delete on counterfoil.policies
    for each row execute function counterfoil.refuse_change();
create trigger policies_are_not_truncated before truncate on counterfoil.policies
    for each statement execute function counterfoil.refuse_change();

-- The effects of events about policies (apply_effect): null where it is done, otherwise why it
-- cannot be, in one word.
create function counterfoil.change_policy(
    p_tenant_id integer,
    p_effect jsonb,
    p_position bigint,      -- the event's
    p_now timestamptz
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    c_policies_max constant integer := 1000;    -- POLICIES_MAX
    v_by text := p_effect ->> 'by';
    v_policy counterfoil.policies;
    v_last integer;
begin
    case p_effect ->> 'effect'

    when 'draft_policy' then
        select max(p.version) into v_last from counterfoil.policies p
        where p.tenant_id = p_tenant_id and p.name = p_effect ->> 'name';
        -- Its event names the version; somebody else was faster.
        if coalesce(v_last, 0) + 1 <> (p_effect ->> 'version')::integer then
            return 'version_taken';
        elsif v_last is null and (
            select count(distinct p.name) from counterfoil.policies p
            where p.tenant_id = p_tenant_id) >= c_policies_max
        then
            return 'too_many';
        end if;
        insert into counterfoil.policies (
            tenant_id, name, version, position, document, digest, drafted_at, drafted_by)
        values (
            p_tenant_id, p_effect ->> 'name', (p_effect ->> 'version')::integer, p_position,
            p_effect ->> 'document', sha256(convert_to(p_effect ->> 'document', 'UTF8')), p_now,
            v_by);

    when 'activate_policy' then
        select * into v_policy from counterfoil.policies p
        where p.tenant_id = p_tenant_id and p.name = p_effect ->> 'name'
          and p.version = (p_effect ->> 'version')::integer;
        if not found then
            return 'policy_not_found';
        elsif v_policy.state = 'active' then
            return 'unchanged';
        elsif substring(v_by from position(':' in v_by) + 1)
              = substring(v_policy.drafted_by from position(':' in v_policy.drafted_by) + 1)
        then
            return 'own_draft';
        end if;
        -- First out, then in: one at most is in force at any moment.
        update counterfoil.policies p
        set state = 'retired', retired_at = p_now, retired_by = v_by
        where p.tenant_id = p_tenant_id and p.name = v_policy.name and p.state = 'active';
        update counterfoil.policies p
        set state = 'active', activated_at = p_now, activated_by = v_by, retired_at = null,
            retired_by = null
        where p.tenant_id = p_tenant_id and p.name = v_policy.name
          and p.version = v_policy.version;

    when 'retire_policy' then
        -- The event names the version that was in force when it was asked for.
        update counterfoil.policies p
        set state = 'retired', retired_at = p_now, retired_by = v_by
        where p.tenant_id = p_tenant_id and p.name = p_effect ->> 'name'
          and p.version = (p_effect ->> 'version')::integer and p.state = 'active';
        if not found then
            return 'policy_not_active';
        end if;

    end case;
    return null;
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

    when 'draft_policy', 'activate_policy', 'retire_policy' then
        return counterfoil.change_policy(p_tenant_id, p_effect, p_position, p_now);

    when 'open_book' then
        return counterfoil.open_book(p_effect, p_now);

    end case;
    return null;
end
$$;

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
create or replace function counterfoil.matching_v1(
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

alter table counterfoil.policies enable row level security;
alter table counterfoil.policies force row level security;
create policy own_tenant_only on counterfoil.policies using (
    tenant_id = counterfoil.current_tenant());

revoke all on counterfoil.policies from public;
revoke all on all functions in schema counterfoil from public;

grant select on counterfoil.policies to counterfoil_service;
grant execute on function counterfoil.event_matches(counterfoil.events, jsonb)
    to counterfoil_service;
