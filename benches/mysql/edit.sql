-- One message in five hundred is edited, among the newest 2 %: people edit what they have just written.
UPDATE messages SET content = CONCAT(content, ' (已编辑)'), edited_at = DATE_ADD(created_at, INTERVAL 77 SECOND)
WHERE id > @messages - @messages DIV 50 AND id % 10 = 3;
