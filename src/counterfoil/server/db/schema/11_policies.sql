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
