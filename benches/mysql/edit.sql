-- One in five hundred rows is edited: messages among the newest 2 % (people edit what they have just written, and a
-- message can be recalled for some minutes only), users wherever they are.
UPDATE messages SET content = CONCAT(content, ' (已编辑)'), edited_at = DATE_ADD(created_at, INTERVAL 77 SECOND)
WHERE id > @messages - @messages DIV 50 AND id % 10 = 3;
UPDATE users SET seen_at = DATE_ADD('2025-06-01', INTERVAL @messages + id SECOND) WHERE CRC32(id) % 500 = 3;
