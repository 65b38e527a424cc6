"""The database: connections, migrations, the SQL files, and PostgreSQL itself for `counterfoil dev`."""
