-- What the migration runner asks and records.

-- name: server_encoding
select current_setting('server_encoding');

-- name: one_at_a_time
-- A lock of the session, on a number that nothing else uses: the bytes of 'cntrfoil'.
select pg_advisory_lock(7164792091886709100);

-- name: bound_lock_wait
select set_config('lock_timeout', %(milliseconds)s, true);

-- name: has_history
select to_regclass('counterfoil.schema_migrations') is not null;

-- name: history
select version, checksum from counterfoil.schema_migrations order by version;

-- name: record
insert into counterfoil.schema_migrations (version, name, checksum)
values (%(version)s, %(name)s, %(checksum)s);
