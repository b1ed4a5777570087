//! A plan tells which columns it reads: all that any evaluated expression names, and no other.

use thalweg_planner::Reads;

use super::views::view;
use super::world::World;

#[test]
fn a_plan_tells_what_it_reads() {
    let world = World::new();
    for (query, expected) in [
        ("SELECT count(*) FROM clicks", "clicks"),
        ("SELECT user_id FROM clicks", "clicks user_id"),
        (
            "SELECT user_id FROM clicks WHERE action = 'start'",
            "clicks user_id action",
        ),
        ("SELECT * FROM clicks", "clicks user_id action at"),
        (
            "SELECT c FROM (SELECT action AS c, at FROM clicks) q",
            "clicks action",
        ),
        // What fails is recorded, read or not.
        (
            "SELECT c FROM (SELECT action AS c, 1 / user_id AS d FROM clicks) q",
            "clicks user_id action",
        ),
        (
            "SELECT action, max(at) FROM clicks GROUP BY action",
            "clicks action at",
        ),
        (
            "SELECT a.action FROM clicks a JOIN orders o ON a.user_id = o.id AND o.qty > 1",
            "clicks user_id action; orders id qty",
        ),
        (
            "SELECT note FROM orders UNION ALL SELECT action FROM clicks",
            "clicks action; orders note",
        ),
        (
            "SELECT id FROM orders WHERE qty IN (SELECT user_id FROM clicks)",
            "clicks user_id; orders id qty",
        ),
    ] {
        let root = view(&world, query).expect(query).stream.root;
        let mut found = Vec::new();
        for (oid, columns) in root.columns_read() {
            let relation = world.catalog.relation(oid).expect("a relation of the plan");
            let mut text = relation.name.clone();
            for (position, reads) in columns {
                assert_eq!(reads, Reads::Whole, "{query}");
                text.push(' ');
                text.push_str(&relation.columns[position].name);
            }
            found.push(text);
        }
        found.sort();
        assert_eq!(found.join("; "), expected, "{query}");
    }
}
