-- A web shop whose customers are in HBase and whose orders come through Kafka. Create the topic `orders` first, and put the
-- addresses of your brokers and Thrift2 gateways in place of localhost:9092 and localhost:9090.

CREATE SOURCE IF NOT EXISTS orders (
    order_id bigint,
    customer_id int,
    amount numeric(12, 2),
    ts timestamptz
) WITH (
    connector = 'kafka', topic = 'orders', properties.bootstrap.server = 'localhost:9092'
) FORMAT PLAIN ENCODE JSON;

-- Kept by another program, or from here with INSERT, UPDATE and DELETE.
CREATE TABLE IF NOT EXISTS customers (
    id int PRIMARY KEY,
    name text,
    country text
) WITH (
    connector = 'hbase', thrift.servers = 'localhost:9090', table = 'customers', family = 'c', create = 'if-missing',
    lookup.cache.ttl = '10 s'
);

-- Each order with its customer as that was when the order came.
CREATE MATERIALIZED VIEW IF NOT EXISTS named_orders AS
SELECT o.order_id, o.customer_id, o.amount, o.ts, c.name, c.country
FROM orders o
LEFT JOIN customers FOR SYSTEM_TIME AS OF PROCTIME() AS c ON c.id = o.customer_id;

-- One row per customer and day, under a key that sorts as its values do.
CREATE TABLE IF NOT EXISTS customer_days (
    customer_id int,
    day date,
    country text,
    orders bigint,
    amount numeric(12, 2),
    PRIMARY KEY (customer_id, day)
) WITH (
    connector = 'hbase', thrift.servers = 'localhost:9090', table = 'customer_days', family = 'd', create = 'if-missing'
);

CREATE SINK IF NOT EXISTS to_customer_days INTO customer_days AS
SELECT customer_id, ts::date AS day, max(country) AS country, count(*) AS orders, sum(amount) AS amount
FROM named_orders
WHERE customer_id IS NOT NULL AND ts IS NOT NULL
GROUP BY customer_id, ts::date;

-- By key, by range, by filter:
--   SELECT * FROM customer_days WHERE customer_id = 7 AND day = '2024-03-01';
--   SELECT * FROM customer_days WHERE customer_id = 7 AND day >= '2024-03-01' ORDER BY day;
--   SELECT sum(amount) FROM customer_days WHERE country = 'NL';
