-- The users @first to @last: the same ones each time.
INSERT INTO users
WITH RECURSIVE n (i) AS (SELECT CAST(@first AS UNSIGNED) UNION ALL SELECT i + 1 FROM n WHERE i < @last)
SELECT i, CONCAT('user_', i), CONCAT(phrase, i),
  CONCAT('$2b$10$', LEFT(TO_BASE64(UNHEX(SHA2(i, 384))), 53)),
  JSON_OBJECT('theme', ELT(1 + i % 3, 'light', 'dark', '跟随系统'), 'lang', ELT(1 + i % 2, 'zh', 'en'), 'mute', i % 9),
  DATE_ADD('2025-01-01', INTERVAL CRC32(CONCAT('s', i)) % 8000000 SECOND)
FROM n STRAIGHT_JOIN phrases.phrases p ON p.id = CRC32(CONCAT('n', i)) % 65536;
