EXPLAIN STREAM SELECT id, amount * 2 AS twice FROM orders WHERE qty > 1;
EXPLAIN STREAM SELECT user_id FROM clicks WHERE action = 'start';
EXPLAIN STREAM SELECT id FROM orders UNION ALL SELECT order_id FROM items;
EXPLAIN STREAM SELECT action, count(*) AS n FROM clicks GROUP BY action;
EXPLAIN STREAM SELECT o.id, i.price FROM orders o JOIN items i ON i.order_id = o.id;
EXPLAIN STREAM SELECT id FROM orders ORDER BY id LIMIT 3;
EXPLAIN STREAM SELECT window_start, window_end, action FROM TUMBLE(clicks, at, INTERVAL '1' MINUTE);
EXPLAIN STREAM SELECT window_start, action FROM HOP(clicks, at, INTERVAL '30' SECOND, INTERVAL '1' MINUTE);
EXPLAIN STREAM SELECT id FROM orders WHERE now() > timestamptz '2024-01-01';
