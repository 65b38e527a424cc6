-- The book: its tables, and what keeps them immutable.
--
-- This folder is the schema as it stands, for reading. A database gets here through
-- migrations/; a test compares the two, so neither can drift.
--
-- Rules that hold throughout:
--   * tenant_id leads every primary key and index. Row-level security, partitioning by
--     tenant and a distributed PostgreSQL all fit without a change of shape.
--   * Text that is compared is COLLATE "C": byte by byte, the same on every machine.
--   * There are no foreign keys from the log. A key from events to books would take a
--     shared lock on the very row that orders all writers; append_v4 holds that row
--     locked anyway, and nothing ever deletes one.

create schema counterfoil;

-- Which migrations have run, and what they were: one that was changed afterwards is refused.
create table counterfoil.schema_migrations (
    version integer not null,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default clock_timestamp(),
    constraint schema_migrations_pkey primary key (version)
);

-- One row a tenant. The row is the lock that gives the tenant's writers their one order:
-- append_v4 locks it and never updates it, so no dead row versions pile up behind an old
-- snapshot. Where the order stands is the last primary key of events.
create table counterfoil.books (
    tenant_id integer not null,
    name text collate "C" not null,
    -- Changed by `counterfoil recover` after a restore: positions that others have read
    -- may then be given out again, and whatever carries the old incarnation is refused.
    incarnation uuid not null default gen_random_uuid(),
    created_at timestamptz not null default clock_timestamp(),
    constraint books_pkey primary key (tenant_id),
    constraint books_name_is_unique unique (name)
);

-- The events. position is 1, 2, 3 … per tenant without gaps, in the order of commits.
create table counterfoil.events (
    tenant_id integer not null,
    position bigint not null,
    agent_name text collate "C" not null,
    event_type text collate "C" not null,
    -- Null once erased, together with its salt; the digest stays, and with it the proof.
    payload jsonb,
    tags text[] collate "C" not null,
    created_at timestamptz not null,
    occurred_at timestamptz,
    caused_by bigint[] not null,
    context jsonb,
    -- digest = SHA-256(salt || payload as PostgreSQL writes it). Without the salt, a
    -- blanked payload of few possible values could be guessed from its digest.
    salt bytea,
    digest bytea not null,
    -- Who sent it: the principal of the key, not the agent's own claim.
    principal text collate "C" not null,
    constraint events_pkey primary key (tenant_id, position),
    constraint position_is_positive check (position > 0),
    constraint payload_and_salt_go_together check ((payload is null) = (salt is null))
);

create index events_by_type on counterfoil.events (tenant_id, event_type, position);
create index events_by_agent on counterfoil.events (tenant_id, agent_name, position);

-- What each event is about, one row a tag. Beside events.tags this is a second copy, and
-- it earns its place: a condition is checked under the lock of all writers, and near the
-- head this index answers in well under a millisecond whatever the tag, where GIN indexes
-- took up to 240 ms for a common tag.
create table counterfoil.event_tags (
    tenant_id integer not null,
    tag text collate "C" not null,
    position bigint not null,
    constraint event_tags_pkey primary key (tenant_id, tag, position)
);

-- The answers that are given again. Kept as long as the events: a key that was forgotten
-- is a payment that can be booked twice.
create table counterfoil.idempotency_keys (
    tenant_id integer not null,
    principal text collate "C" not null,
    key text collate "C" not null,
    -- SHA-256 of the operation and the content, as parsed: spelling does not count.
    content_digest bytea not null,
    first_position bigint not null,
    event_count integer not null,
    created_at timestamptz not null,
    constraint idempotency_keys_pkey primary key (tenant_id, principal, key)
);

-- The service's role holds no right to change an event. This guards against everyone
-- else, the owner's own slips included: an event can only ever be blanked.
create function counterfoil.refuse_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'counterfoil.% only grows: % is refused', tg_table_name, lower(tg_op)
        using errcode = 'restrict_violation';
end
$$;

-- The search path is part of it: with an `=` for rows of its own in front, the eraser could
-- make a forged row equal to the old one. And rows are compared by their bytes (*<>),
-- because to `=` a context of 1.0 and one of 1.00 are the same.
create function counterfoil.refuse_change_but_blanking() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    old.payload := null;
    old.salt := null;
    if new *<> old then
        raise exception 'an event can be blanked (payload and salt set to null), never changed'
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

create trigger events_can_only_be_blanked before update on counterfoil.events
    for each row execute function counterfoil.refuse_change_but_blanking();
create trigger events_stay before delete on counterfoil.events
    for each row execute function counterfoil.refuse_change();
create trigger events_are_not_truncated before truncate on counterfoil.events
    for each statement execute function counterfoil.refuse_change();
create trigger event_tags_stay before update or delete on counterfoil.event_tags
    for each row execute function counterfoil.refuse_change();
create trigger event_tags_are_not_truncated before truncate on counterfoil.event_tags
    for each statement execute function counterfoil.refuse_change();
create trigger idempotency_keys_stay before update or delete on counterfoil.idempotency_keys
    for each row execute function counterfoil.refuse_change();
create trigger idempotency_keys_are_not_truncated before truncate on counterfoil.idempotency_keys
    for each statement execute function counterfoil.refuse_change();
create trigger books_stay before delete on counterfoil.books
    for each row execute function counterfoil.refuse_change();
create trigger books_are_not_truncated before truncate on counterfoil.books
    for each statement execute function counterfoil.refuse_change();

-- The book of `counterfoil dev` and of every installation that never asked for a second.
insert into counterfoil.books (tenant_id, name) values (1, 'default');
