-- One message and one user in five hundred are edited, wherever they are: the worst that so few edits can do.
UPDATE messages SET content = CONCAT(content, ' !'), edited_at = DATE_ADD(created_at, INTERVAL 99 DAY)
WHERE CRC32(id) % 500 = 3;
UPDATE users SET seen_at = DATE_ADD('2025-09-01', INTERVAL id SECOND) WHERE CRC32(id) % 500 = 3;
