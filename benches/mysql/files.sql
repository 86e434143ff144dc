-- The files @first to @last, of @users users: the same ones each time.
INSERT INTO files
WITH RECURSIVE n (i) AS (SELECT CAST(@first AS UNSIGNED) UNION ALL SELECT i + 1 FROM n WHERE i < @last)
SELECT i, h, CONCAT(phrase, ELT(1 + i % 3, '.jpg', '.pdf', '.mp4')),
  CRC32(h) % 50000000, CONCAT('2025/', LEFT(h, 2), '/', LEFT(h, 16)), 1 + CRC32(CONCAT('o', i)) % @users,
  DATE_ADD('2025-01-01', INTERVAL i * 205761300 MICROSECOND)
FROM (SELECT i, SHA2(CONCAT('f', i), 256) AS h FROM n) AS f
  STRAIGHT_JOIN phrases.phrases p ON p.id = CRC32(CONCAT('p', i)) % 65536;
