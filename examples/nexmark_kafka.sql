-- Nexmark against a real Kafka: one topic with all events, as the benchmark's peers read it. Create the topics `nexmark` and
-- `auction_prices` first, and put the address of your brokers in place of localhost:9092. The first sink fills the topic.

CREATE SOURCE IF NOT EXISTS events (
    event_type int,
    person STRUCT<id bigint, name text, email_address text, credit_card text, city text, state text, date_time timestamp, extra text>,
    auction STRUCT<id bigint, item_name text, description text, initial_bid bigint, reserve bigint, date_time timestamp, expires timestamp, seller bigint, category bigint, extra text>,
    bid STRUCT<auction bigint, bidder bigint, price bigint, channel text, url text, date_time timestamp, extra text>
) WITH (connector = 'nexmark', events = 5000, seed = 1);

CREATE SINK IF NOT EXISTS fill FROM events
WITH (connector = 'kafka', topic = 'nexmark', properties.bootstrap.server = 'localhost:9092')
FORMAT PLAIN ENCODE JSON;

CREATE SOURCE IF NOT EXISTS nexmark (
    event_type int,
    person STRUCT<id bigint, name text, email_address text, credit_card text, city text, state text, date_time timestamp, extra text>,
    auction STRUCT<id bigint, item_name text, description text, initial_bid bigint, reserve bigint, date_time timestamp, expires timestamp, seller bigint, category bigint, extra text>,
    bid STRUCT<auction bigint, bidder bigint, price bigint, channel text, url text, date_time timestamp, extra text>
) WITH (connector = 'kafka', topic = 'nexmark', properties.bootstrap.server = 'localhost:9092')
FORMAT PLAIN ENCODE JSON;

CREATE VIEW auction AS
SELECT (auction).id, (auction).category, (auction).seller, (auction).date_time, (auction).expires FROM nexmark WHERE event_type = 1;

CREATE VIEW bid AS
SELECT (bid).auction, (bid).bidder, (bid).price, (bid).date_time FROM nexmark WHERE event_type = 2;

CREATE MATERIALIZED VIEW IF NOT EXISTS auction_prices AS
SELECT a.id, a.category, count(*) AS bids, max(b.price) AS price
FROM auction a
JOIN bid b ON a.id = b.auction
GROUP BY a.id, a.category;

CREATE SINK IF NOT EXISTS auction_prices_out FROM auction_prices
WITH (connector = 'kafka', topic = 'auction_prices', properties.bootstrap.server = 'localhost:9092', primary_key = 'id,category')
FORMAT UPSERT ENCODE JSON;
