-- Who may write what: keys, the schemas of event types, what is frozen, and what a tenant
-- has settled for itself.
--
-- Each row here comes from an event in the tenant's own book (`position`), written by the
-- service under its own name: the row is that event's effect (11_effects.sql), made in the
-- same step. So the book tells who was allowed what, and when; these tables only answer it
-- quickly.

-- What opens the service to whom. A row holds no secret: the digest is that of 256 random
-- bits, which nobody can guess from it.
create table counterfoil.keys (
    tenant_id integer not null,
    key_id text collate "C" not null,
    position bigint not null,
    kind text collate "C" not null,
    -- the principal's: `kind:name` owns idempotency keys and signs events
    name text collate "C" not null,
    mode text collate "C" not null,
    scopes text[] collate "C" not null,
    digest bytea not null,
    created_at timestamptz not null,
    created_by text collate "C" not null,
    expires_at timestamptz,
    revoked_at timestamptz,
    rate_per_second integer,
    rate_burst integer,
    -- the key that this one took the place of
    replaces text collate "C",
    constraint keys_pkey primary key (tenant_id, key_id),
    -- A key is looked up before it is known whose it is.
    constraint key_ids_are_unique unique (key_id),
    constraint kind_is_known check (kind in ('agent', 'person', 'service', 'auditor', 'admin')),
    constraint mode_is_known check (mode in ('live', 'test')),
    constraint digest_is_sha256 check (octet_length(digest) = 32),
    constraint rate_and_burst_go_together check ((rate_per_second is null) = (rate_burst is null))
);

create index keys_by_position on counterfoil.keys (tenant_id, position);

-- When each key was used last, to within a minute. Beside the keys, which stay as they are.
create table counterfoil.key_uses (
    tenant_id integer not null,
    key_id text collate "C" not null,
    last_used_at timestamptz not null,
    constraint key_uses_pkey primary key (tenant_id, key_id)
);

-- One row a tenant that has registered or settled anything: the position of the event that
-- did so last. An append that was judged under an older one is judged anew.
create table counterfoil.rules (
    tenant_id integer not null,
    position bigint not null,
    unregistered_types text collate "C" not null default 'accepted',
    constraint rules_pkey primary key (tenant_id),
    constraint unregistered_types_is_known check (unregistered_types in ('accepted', 'refused'))
);

-- The schemas of event types. The highest version is the active one, from its position on;
-- so which one a payload stands under can be told for every event that there is.
create table counterfoil.event_types (
    tenant_id integer not null,
    event_type text collate "C" not null,
    version integer not null,
    position bigint not null,
    schema jsonb not null,
    -- whether it was said that it may refuse what the version before accepted, and why
    narrowing boolean not null,
    reason text,
    registered_at timestamptz not null,
    registered_by text collate "C" not null,
    constraint event_types_pkey primary key (tenant_id, event_type, version),
    constraint version_is_positive check (version > 0),
    constraint narrowing_has_a_reason check (not narrowing or reason is not null)
);

create trigger event_types_stay before update or delete on counterfoil.event_types
    for each row execute function counterfoil.refuse_change();
create trigger event_types_are_not_truncated before truncate on counterfoil.event_types
    for each statement execute function counterfoil.refuse_change();

-- What is frozen now. A freeze that has ended, or was thawed, is in the book only. Two
-- people may freeze the same thing for two reasons: each is thawed by itself.
create table counterfoil.freezes (
    tenant_id integer not null,
    position bigint not null,
    kind text collate "C" not null,
    subject text collate "C" not null,      -- the agent, the tag; of a whole book: ''
    reason text not null,
    until timestamptz,
    frozen_at timestamptz not null,
    frozen_by text collate "C" not null,
    constraint freezes_pkey primary key (tenant_id, position),
    constraint freeze_kind_is_known check (kind in ('agent', 'tag', 'book')),
    constraint book_has_no_subject check ((kind = 'book') = (subject = ''))
);

create index freezes_by_subject on counterfoil.freezes (tenant_id, kind, subject, position);

-- Which freezes hold some of these events, the first of them: null where none does. One
-- probe of an index for each agent and tag.
create function counterfoil.freeze_in_the_way(
    p_tenant_id integer, p_events counterfoil.new_event[], p_now timestamptz
) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
begin
    return (select min(f.position)
    from (
        select 'book' as kind, '' as subject
        union all
        select distinct 'agent', e.agent_name from unnest(p_events) as e
        union all
        select distinct 'tag', t.tag
        from unnest(p_events) as e cross join lateral unnest(e.tags) as t (tag)
    ) as written
    cross join lateral (
        select f.position from counterfoil.freezes f
        where f.tenant_id = p_tenant_id and f.kind = written.kind and f.subject = written.subject
          and (f.until is null or f.until > p_now)
        order by f.position limit 1
    ) as f);
end
$$;

-- Which requests of a group write what is frozen, in the same way: once for all of them.
create function counterfoil.frozen_requests(
    p_tenant_id integer, p_events counterfoil.new_event[], p_now timestamptz
) returns integer[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
begin
    return (select array_agg(distinct request)
    from (
        select 'book' as kind, '' as subject, array_agg(distinct e.request) as requests
        from unnest(p_events) as e
        union all
        select 'agent', e.agent_name, array_agg(distinct e.request)
        from unnest(p_events) as e group by e.agent_name
        union all
        select 'tag', t.tag, array_agg(distinct e.request)
        from unnest(p_events) as e cross join lateral unnest(e.tags) as t (tag) group by t.tag
    ) as written
    cross join lateral unnest(written.requests) as request
    where exists (
        select from counterfoil.freezes f
        where f.tenant_id = p_tenant_id and f.kind = written.kind and f.subject = written.subject
          and (f.until is null or f.until > p_now)
        offset 0));
end
$$;
