-- Views, functions, triggers: after the rows, so that what they write is the workload's doing.

--# always
CREATE FUNCTION shop.audit_account() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO shop.audit (account, before, after) VALUES (NEW.id, OLD.balance, NEW.balance);
    RETURN NEW;
END $$;
COMMENT ON FUNCTION shop.audit_account() IS 'fires on the source; if it fires on the target too, audit doubles';
CREATE TRIGGER audit_account AFTER UPDATE ON shop.account
    FOR EACH ROW WHEN (OLD.balance IS DISTINCT FROM NEW.balance) EXECUTE PROCEDURE shop.audit_account();

-- Changes the row itself: run again on the target it would count twice.
CREATE FUNCTION shop.next_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := OLD.revision + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER next_revision BEFORE UPDATE ON shop.document
    FOR EACH ROW EXECUTE PROCEDURE shop.next_revision();
CREATE TRIGGER switched_off BEFORE INSERT ON shop.event
    FOR EACH ROW EXECUTE PROCEDURE shop.next_revision();
ALTER TABLE shop.event DISABLE TRIGGER switched_off;

CREATE FUNCTION shop.gross(price numeric, rate shop.percent DEFAULT 19) RETURNS numeric
    LANGUAGE sql IMMUTABLE AS 'SELECT price * (1 + rate / 100)';
CREATE AGGREGATE shop.product_of(numeric) (SFUNC = numeric_mul, STYPE = numeric, INITCOND = '1');

CREATE VIEW shop.expensive AS SELECT * FROM shop.product WHERE price > 500 WITH CHECK OPTION;
CREATE VIEW shop.expensive_tags AS SELECT id, unnest(tags) AS tag FROM shop.expensive;
CREATE RULE no_delete AS ON DELETE TO shop.expensive DO INSTEAD NOTHING;

-- By name, the one that must come last comes first (P36).
CREATE MATERIALIZED VIEW shop.z_totals AS
    SELECT region, count(*) AS orders, sum(total) AS total FROM shop.orders GROUP BY region;
CREATE UNIQUE INDEX z_totals_region ON shop.z_totals (region);
CREATE MATERIALIZED VIEW shop.a_summary AS SELECT sum(shop.gross(total)) AS gross FROM shop.z_totals;
CREATE MATERIALIZED VIEW shop.empty_so_far AS SELECT 1 AS one WITH NO DATA;

ALTER TABLE shop.customer ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_country ON shop.customer FOR SELECT USING (country = 'fi');
GRANT SELECT ON shop.customer TO PUBLIC;
GRANT UPDATE (note) ON shop.customer TO PUBLIC;
CREATE STATISTICS shop.order_statistics (dependencies) ON position, quantity FROM shop.order_line;
ALTER TABLE shop.event SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

--# since 11
CREATE PROCEDURE shop.nop() LANGUAGE sql AS 'SELECT 1';
