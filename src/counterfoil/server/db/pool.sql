-- What a new connection asks and sets before the service uses it.

-- name: own_rights
-- Whether there is a book, and whether this login could change it behind append_v1's back.
select to_regclass('counterfoil.events') is not null,
       case when to_regclass('counterfoil.events') is not null then
           has_table_privilege('counterfoil.events', 'insert, update, delete, truncate')
       end;

-- name: act_as_service
set role counterfoil_service;

-- name: bound_statements
select set_config('statement_timeout', %(milliseconds)s, false);
