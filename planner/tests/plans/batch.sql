EXPLAIN SELECT id, amount * 2 AS twice FROM orders WHERE qty > 1 AND note LIKE 'f%';
EXPLAIN SELECT qty, count(*), sum(amount) FROM orders GROUP BY qty HAVING count(*) > 1 ORDER BY 2 DESC LIMIT 3;
EXPLAIN SELECT o.id, i.price FROM orders o LEFT JOIN items i ON i.order_id = o.id;
EXPLAIN SELECT id FROM orders WHERE qty <> 0 AND 10 / qty > 1;
EXPLAIN SELECT id FROM orders o WHERE EXISTS (SELECT 1 FROM items i WHERE i.order_id = o.id);
EXPLAIN SELECT id FROM priced UNION ALL SELECT order_id FROM items;
EXPLAIN SELECT CASE WHEN qty = 0 THEN 'none' ELSE qty::text END FROM orders;
EXPLAIN SELECT window_start, count(*) FROM TUMBLE(clicks, at, INTERVAL '1' MINUTE) GROUP BY window_start;
