-- Nexmark: an auction house with persons, auctions and bids. Run it with `thalweg demo nexmark`, or against a server with
-- `thalweg sql -f examples/nexmark.sql`. Every statement may be run again: what exists is kept.

CREATE SOURCE IF NOT EXISTS person (
    id bigint, name text, email_address text, credit_card text, city text, state text, date_time timestamp, extra text
) WITH (connector = 'nexmark', table = 'person', rate = 500, seed = 1);

CREATE SOURCE IF NOT EXISTS auction (
    id bigint, item_name text, description text, initial_bid bigint, reserve bigint, date_time timestamp, expires timestamp,
    seller bigint, category bigint, extra text
) WITH (connector = 'nexmark', table = 'auction', rate = 500, seed = 1);

CREATE SOURCE IF NOT EXISTS bid (
    auction bigint, bidder bigint, price bigint, channel text, url text, date_time timestamp, extra text
) WITH (connector = 'nexmark', table = 'bid', rate = 500, seed = 1);

-- Query 1: prices in euros.
CREATE MATERIALIZED VIEW IF NOT EXISTS q1 AS
SELECT auction, bidder, 0.908 * price AS price, date_time FROM bid;

-- Query 2: bids on some auctions.
CREATE MATERIALIZED VIEW IF NOT EXISTS q2 AS
SELECT auction, price FROM bid WHERE auction % 123 = 0;

-- Query 3: who sells in some states.
CREATE MATERIALIZED VIEW IF NOT EXISTS q3 AS
SELECT p.name, p.city, p.state, a.id
FROM auction a
JOIN person p ON a.seller = p.id
WHERE a.category = 10 AND p.state IN ('or', 'id', 'ca');

-- Query 4: the average closing price of each category.
CREATE MATERIALIZED VIEW IF NOT EXISTS q4 AS
SELECT category, avg(final) AS price
FROM (
    SELECT a.id, a.category, max(b.price) AS final
    FROM auction a
    JOIN bid b ON a.id = b.auction
    WHERE b.date_time BETWEEN a.date_time AND a.expires
    GROUP BY a.id, a.category
) w
GROUP BY category;

-- Query 17 without its days: what each auction has got so far.
CREATE MATERIALIZED VIEW IF NOT EXISTS q17 AS
SELECT auction, count(*) AS bids, min(price) AS low, max(price) AS high, avg(price) AS mean, sum(price) AS total
FROM bid
GROUP BY auction;
