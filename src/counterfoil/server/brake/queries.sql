-- The statements of the brake. brake/store.py is the only caller. What freezes and thaws is an
-- append of the log (log/own.py).

-- name: freezes
-- What is frozen now, in the order in which it was; or the one freeze with an id.
select f.position, json_build_object(
           'id', f.position, 'kind', f.kind, 'subject', nullif(f.subject, ''),
           'reason', f.reason, 'until', counterfoil.time_text(f.until),
           'frozen_at', counterfoil.time_text(f.frozen_at), 'frozen_by', f.frozen_by)
from counterfoil.freezes f
where f.tenant_id = %(tenant_id)s::integer
  and f.position > %(after)s::bigint and f.position <= %(up_to)s::bigint
  and (f.until is null or f.until > clock_timestamp())
order by f.position
limit %(limit)s::integer;
