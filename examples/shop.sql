-- A web shop: orders, payments and stock as they happen. Run it with `thalweg demo shop`, or against a server with
-- `thalweg sql -f examples/shop.sql`. Every statement may be run again: what exists is kept.

CREATE TABLE IF NOT EXISTS products (
    product_id int PRIMARY KEY,
    name text NOT NULL,
    category text NOT NULL,
    cents int NOT NULL
);

INSERT INTO products VALUES
    (1, 'Enamel mug', 'kitchen', 1290),
    (2, 'Linen towel', 'kitchen', 1850),
    (3, 'Desk lamp', 'office', 5900),
    (4, 'Notebook', 'office', 690),
    (5, 'Rain jacket', 'outdoor', 11900),
    (6, 'Head torch', 'outdoor', 3450),
    (7, 'Wool socks', 'clothing', 1490),
    (8, 'Canvas bag', 'clothing', 2900)
ON CONFLICT (product_id) DO NOTHING;

CREATE TABLE IF NOT EXISTS stock (
    product_id int PRIMARY KEY,
    pieces int NOT NULL
);

INSERT INTO stock VALUES (1, 4000), (2, 3000), (3, 2000), (4, 2000), (5, 1000), (6, 1000), (7, 1000), (8, 1000)
ON CONFLICT (product_id) DO NOTHING;

-- Orders as the checkout reports them; a few products sell most.
CREATE SOURCE IF NOT EXISTS orders (
    order_id bigint,
    customer_id int,
    product_id int,
    pieces int,
    country text,
    ts timestamptz
) WITH (
    connector = 'datagen',
    rows_per_second = 40,
    seed = 11,
    fields.order_id.kind = 'sequence',
    fields.order_id.start = 1,
    fields.customer_id.kind = 'zipf',
    fields.customer_id.start = 1,
    fields.customer_id.end = 2000,
    fields.product_id.kind = 'zipf',
    fields.product_id.start = 1,
    fields.product_id.end = 8,
    fields.pieces.kind = 'random',
    fields.pieces.start = 1,
    fields.pieces.end = 3,
    fields.country.kind = 'enum',
    fields.country.values = 'DE,FR,NL,PL,SE',
    fields.country.weights = '5,3,2,1,1',
    fields.ts.kind = 'timestamp',
    fields.ts.max_lateness = '2 s'
);

-- What happened to the payment of an order; one in ten fails.
CREATE SOURCE IF NOT EXISTS payments (
    order_id bigint,
    outcome text,
    ts timestamptz
) WITH (
    connector = 'datagen',
    rows_per_second = 40,
    seed = 12,
    fields.order_id.kind = 'sequence',
    fields.order_id.start = 1,
    fields.outcome.kind = 'enum',
    fields.outcome.values = 'paid,failed',
    fields.outcome.weights = '9,1',
    fields.ts.kind = 'timestamp'
);

-- Orders that are paid, with what they are worth.
CREATE MATERIALIZED VIEW IF NOT EXISTS sales AS
SELECT o.order_id, o.customer_id, o.product_id, o.pieces, o.country, o.pieces * p.cents AS cents, o.ts
FROM orders o
JOIN payments y ON y.order_id = o.order_id AND y.outcome = 'paid'
JOIN products p ON p.product_id = o.product_id;

-- Revenue by category and country.
CREATE MATERIALIZED VIEW IF NOT EXISTS revenue AS
SELECT p.category, s.country, count(*) AS orders, sum(s.cents) AS cents
FROM sales s
JOIN products p ON p.product_id = s.product_id
GROUP BY p.category, s.country;

-- What is left of each product.
CREATE MATERIALIZED VIEW IF NOT EXISTS stock_left AS
SELECT p.name, t.pieces - coalesce(sum(s.pieces), 0) AS pieces
FROM stock t
JOIN products p ON p.product_id = t.product_id
LEFT JOIN sales s ON s.product_id = t.product_id
GROUP BY p.product_id, p.name, t.pieces;

-- The best customers, kept in a table that other systems may read and change.
CREATE TABLE IF NOT EXISTS best_customers (
    customer_id int PRIMARY KEY,
    orders bigint,
    cents bigint,
    note text DEFAULT 'new'
);

CREATE SINK IF NOT EXISTS best INTO best_customers AS
SELECT customer_id, count(*) AS orders, sum(cents) AS cents
FROM sales
GROUP BY customer_id
HAVING count(*) >= 5;
