-- Digital TV: who watches what, right now. Run it with `thalweg demo tv`, or against a server with `thalweg sql -f examples/tv.sql`.
-- Every statement may be run again: what exists is kept.

CREATE TABLE IF NOT EXISTS shows (
    show_id int PRIMARY KEY,
    title text NOT NULL,
    channel int NOT NULL,
    genre text NOT NULL
);

INSERT INTO shows VALUES
    (1, 'Morning Tides', 1, 'news'),
    (2, 'The Long River', 1, 'drama'),
    (3, 'Deep Channel', 2, 'documentary'),
    (4, 'Goal Line', 3, 'sports'),
    (5, 'Kitchen at Nine', 2, 'food'),
    (6, 'Late Signal', 4, 'talk'),
    (7, 'Harbour Street', 4, 'drama'),
    (8, 'Small Planets', 5, 'kids')
ON CONFLICT (show_id) DO NOTHING;

CREATE TABLE IF NOT EXISTS ads (
    ad_id int PRIMARY KEY,
    show_id int NOT NULL,
    brand text NOT NULL,
    cents_per_start int NOT NULL
);

INSERT INTO ads VALUES
    (1, 1, 'Northwind Coffee', 4),
    (2, 2, 'Alder Bank', 9),
    (3, 4, 'Sprint Shoes', 12),
    (4, 4, 'Northwind Coffee', 5),
    (5, 5, 'Copper Pans', 6),
    (6, 7, 'Alder Bank', 8)
ON CONFLICT (ad_id) DO NOTHING;

-- Set-top boxes report what their viewers do.
CREATE SOURCE IF NOT EXISTS viewer_events (
    event_id bigint,
    viewer_id int,
    show_id int,
    action text,
    ts timestamptz
) WITH (
    connector = 'datagen',
    rows_per_second = 50,
    seed = 7,
    fields.event_id.kind = 'sequence',
    fields.event_id.start = 1,
    fields.viewer_id.kind = 'random',
    fields.viewer_id.start = 1,
    fields.viewer_id.end = 500,
    fields.show_id.kind = 'zipf',
    fields.show_id.start = 1,
    fields.show_id.end = 8,
    fields.action.kind = 'enum',
    fields.action.values = 'start,start,start,stop,stop,switch',
    fields.ts.kind = 'timestamp'
);

-- A filter: kept row by row.
CREATE MATERIALIZED VIEW IF NOT EXISTS switches AS
SELECT event_id, viewer_id, show_id, ts
FROM viewer_events
WHERE action = 'switch';

-- Starts, stops and switches of every show.
CREATE MATERIALIZED VIEW IF NOT EXISTS show_activity AS
SELECT
    s.show_id,
    s.title,
    s.genre,
    count(*) FILTER (WHERE e.action = 'start') AS starts,
    count(*) FILTER (WHERE e.action = 'stop') AS stops,
    count(*) FILTER (WHERE e.action = 'switch') AS switches,
    count(DISTINCT e.viewer_id) AS viewers
FROM shows s
LEFT JOIN viewer_events e ON e.show_id = s.show_id
GROUP BY s.show_id, s.title, s.genre;

-- A view on a view: genres by activity.
CREATE MATERIALIZED VIEW IF NOT EXISTS genre_activity AS
SELECT genre, sum(starts) AS starts, sum(stops) AS stops, count(*) AS shows
FROM show_activity
GROUP BY genre;

-- Another view on a view: what each brand owes.
CREATE MATERIALIZED VIEW IF NOT EXISTS ad_revenue AS
SELECT a.brand, sum(v.starts) AS impressions, sum(v.starts * a.cents_per_start) AS cents
FROM ads a
JOIN show_activity v ON v.show_id = a.show_id
GROUP BY a.brand;

-- The three shows that start most often.
CREATE MATERIALIZED VIEW IF NOT EXISTS top_shows AS
SELECT title, starts
FROM show_activity
ORDER BY starts DESC, title
LIMIT 3;
