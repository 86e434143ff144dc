-- The messages @first to @last, of @users users: the same ones each time.
INSERT INTO messages
WITH RECURSIVE n (i) AS (SELECT CAST(@first AS UNSIGNED) UNION ALL SELECT i + 1 FROM n WHERE i < @last),
  m AS (SELECT i, SHA2(CONCAT('m', i), 256) AS h FROM n)
SELECT i, CONCAT_WS('-', LEFT(h, 8), SUBSTR(h, 9, 4), SUBSTR(h, 13, 4), SUBSTR(h, 17, 4), SUBSTR(h, 21, 12)),
  1 + CRC32(CONCAT('c', i DIV 7)) % (1 + @users DIV 4), 1 + CRC32(CONCAT('u', i)) % @users,
  CONCAT(a.phrase, b.phrase, IF(i % 3, c.phrase, ''), IF(i % 4, '', d.phrase), IF(i % 7, '', CONCAT(e.phrase, f.phrase)),
    IF(i % 17, '', CONCAT(' https://example.org/', RIGHT(h, 32)))),
  IF(i % 4, JSON_OBJECT('client', ELT(1 + i % 5, 'android', 'ios', 'web', 'desktop', '小程序'), 'seq', i,
    'client_id', LEFT(SHA2(h, 224), 24), 'mentions', JSON_ARRAY(CRC32(h) % @users)), NULL),
  0, DATE_ADD('2025-01-01', INTERVAL i * 12345678 MICROSECOND), NULL
FROM m STRAIGHT_JOIN phrases.phrases a ON a.id = CRC32(CONCAT('a', i)) % 65536
  STRAIGHT_JOIN phrases.phrases b ON b.id = CRC32(CONCAT('b', i)) % 65536
  STRAIGHT_JOIN phrases.phrases c ON c.id = CRC32(CONCAT('d', i)) % 65536
  STRAIGHT_JOIN phrases.phrases d ON d.id = CRC32(CONCAT('e', i)) % 65536
  STRAIGHT_JOIN phrases.phrases e ON e.id = CRC32(CONCAT('f', i)) % 65536
  STRAIGHT_JOIN phrases.phrases f ON f.id = CRC32(CONCAT('g', i)) % 65536;
