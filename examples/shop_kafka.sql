-- A web shop against a real Kafka. Create the topics `orders`, `payments`, `sales` and `revenue` first, and put the address of your
-- brokers in place of localhost:9092.

CREATE SOURCE IF NOT EXISTS orders (
    order_id bigint,
    customer_id int,
    country text,
    amount numeric(12, 2),
    ts timestamptz
) WITH (
    connector = 'kafka', topic = 'orders', properties.bootstrap.server = 'localhost:9092'
) FORMAT PLAIN ENCODE JSON;

CREATE SOURCE IF NOT EXISTS payments (
    order_id bigint,
    outcome text
) WITH (
    connector = 'kafka', topic = 'payments', properties.bootstrap.server = 'localhost:9092'
) FORMAT PLAIN ENCODE JSON;

-- Large orders, one message each, as they come.
CREATE SINK IF NOT EXISTS large_orders AS
SELECT order_id, country, amount, ts FROM orders WHERE amount >= 100
WITH (
    connector = 'kafka', topic = 'sales', properties.bootstrap.server = 'localhost:9092', primary_key = 'order_id'
) FORMAT PLAIN ENCODE JSON KEY ENCODE TEXT;

CREATE MATERIALIZED VIEW IF NOT EXISTS revenue AS
SELECT o.country, count(*) AS orders, sum(o.amount) AS amount
FROM orders o
JOIN payments p ON p.order_id = o.order_id AND p.outcome = 'paid'
GROUP BY o.country;

CREATE SINK IF NOT EXISTS revenue_out FROM revenue
WITH (
    connector = 'kafka', topic = 'revenue', properties.bootstrap.server = 'localhost:9092', primary_key = 'country'
) FORMAT UPSERT ENCODE JSON;
