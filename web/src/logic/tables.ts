// List of database tables with row counts, queried by psql in the sandbox.

export interface TableInfo {
  name: string;
  rows: string;
  size: string;
}

/**
 * Counts are exact up to a bound, because counting a big table is slow; above it they are the planner's
 * estimate, marked with “~”.
 */
export const tablesQuery = `
select n.nspname || '.' || c.relname,
       case when c.reltuples > 100000 then '~' || c.reltuples::bigint::text
            else (xpath('/row/n/text()', query_to_xml(format('select count(*) as n from %I.%I', n.nspname, c.relname), false, true, '')))[1]::text end,
       pg_size_pretty(pg_total_relation_size(c.oid))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg_toast%'
order by 1 limit 200`;

/** Parses the output of psql: unaligned, separated by tabs. */
export function parseTables(text: string): TableInfo[] {
  return text
    .split("\n")
    .map((line) => line.split("\t"))
    .filter((parts) => parts.length === 3)
    .map(([name = "", rows = "", size = ""]) => ({ name: name.replace(/^public\./, ""), rows, size }));
}
