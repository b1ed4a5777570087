-- Digital TV against a real Kafka: viewer events come from one topic, and what each show does goes to another. Create the topics
-- `viewer_events` and `show_activity` first, and put the address of your brokers in place of localhost:9092.

CREATE TABLE IF NOT EXISTS shows (
    show_id int PRIMARY KEY,
    title text NOT NULL,
    genre text NOT NULL
);

INSERT INTO shows VALUES
    (1, 'Morning Tides', 'news'),
    (2, 'The Long River', 'drama'),
    (3, 'Deep Channel', 'documentary'),
    (4, 'Goal Line', 'sports')
ON CONFLICT (show_id) DO NOTHING;

CREATE SOURCE IF NOT EXISTS viewer_events (
    event_id bigint,
    viewer_id int,
    show_id int,
    action text,
    ts timestamptz,
    CONSTRAINT known_action CHECK (action IN ('start', 'stop', 'switch')) ON VIOLATION DEAD_LETTER
) INCLUDE PARTITION AS p INCLUDE OFFSET AS o
WITH (
    connector = 'kafka',
    topic = 'viewer_events',
    properties.bootstrap.server = 'localhost:9092',
    scan.startup.mode = 'earliest'
) FORMAT PLAIN ENCODE JSON;

CREATE MATERIALIZED VIEW IF NOT EXISTS show_activity AS
SELECT
    s.show_id,
    s.title,
    count(*) FILTER (WHERE e.action = 'start') AS starts,
    count(*) FILTER (WHERE e.action = 'stop') AS stops,
    count(DISTINCT e.viewer_id) AS viewers
FROM shows s
LEFT JOIN viewer_events e ON e.show_id = s.show_id
GROUP BY s.show_id, s.title;

-- The newest row of each show, for whoever reads the topic.
CREATE SINK IF NOT EXISTS show_activity_out FROM show_activity
WITH (
    connector = 'kafka',
    topic = 'show_activity',
    properties.bootstrap.server = 'localhost:9092',
    primary_key = 'show_id,title'
) FORMAT UPSERT ENCODE JSON;
