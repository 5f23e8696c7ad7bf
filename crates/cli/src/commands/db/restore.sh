# Replaces the content of the database that the environment names with the archive on standard input, in one
# transaction: whatever fails, the database is as it was. Sessions of other programs stay connected and wait.
command -v pg_restore > /dev/null && command -v psql > /dev/null || exit 127
{
    cat << 'SQL'
BEGIN;
-- The archive's script begins a transaction too.
SET LOCAL client_min_messages = error;
-- A program that keeps a transaction open would delay the restore forever.
SET LOCAL lock_timeout = '60s';
DO $fsa$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT evtname FROM pg_event_trigger WHERE pg_has_role(evtowner, 'USAGE') LOOP
        EXECUTE format('DROP EVENT TRIGGER %I', name);
    END LOOP;
    FOR name IN SELECT pubname FROM pg_publication WHERE pg_has_role(pubowner, 'USAGE') LOOP
        EXECUTE format('DROP PUBLICATION %I', name);
    END LOOP;
    FOR name IN SELECT extname FROM pg_extension
                WHERE extname <> 'plpgsql' AND pg_has_role(extowner, 'USAGE') LOOP
        EXECUTE format('DROP EXTENSION IF EXISTS %I CASCADE', name);
    END LOOP;
    FOR name IN SELECT srvname FROM pg_foreign_server WHERE pg_has_role(srvowner, 'USAGE') LOOP
        EXECUTE format('DROP SERVER %I CASCADE', name);
    END LOOP;
    FOR name IN SELECT nspname FROM pg_namespace
                WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND pg_has_role(nspowner, 'USAGE') LOOP
        EXECUTE format('DROP SCHEMA IF EXISTS %I CASCADE', name);
    END LOOP;
    PERFORM lo_unlink(oid) FROM pg_largeobject_metadata WHERE pg_has_role(lomowner, 'USAGE');
    IF to_regnamespace('public') IS NULL THEN
        CREATE SCHEMA public;
        COMMENT ON SCHEMA public IS 'standard public schema';
        GRANT USAGE ON SCHEMA public TO PUBLIC;
        -- As in a new database; before PostgreSQL 14 there is no such role.
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pg_database_owner') THEN
            ALTER SCHEMA public OWNER TO pg_database_owner;
        END IF;
    END IF;
END
$fsa$;
SQL
    {
        # Its script ends with COMMIT, and only if the whole archive was read.
        pg_restore --single-transaction --no-owner --no-privileges --file=- && printf '\n%s\n' '\echo fsa: restored'
        # A newer pg_restore writes this setting into the head of its script, and servers before 17 refuse it.
    } | sed '1,30s/^SET transaction_timeout = 0;$//'
} | psql --no-psqlrc --quiet --no-password --output=/dev/null --set=ON_ERROR_STOP=1 | grep -x 'fsa: restored' > /dev/null
