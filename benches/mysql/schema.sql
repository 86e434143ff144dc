-- A chat system's three largest tables.
CREATE DATABASE bench CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
USE bench;
CREATE TABLE users (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  username VARCHAR(64) NOT NULL,
  nickname VARCHAR(128) NOT NULL,
  password_hash VARBINARY(60) NOT NULL,
  settings JSON NULL,
  seen_at DATETIME(3) NULL,
  PRIMARY KEY (id),
  UNIQUE KEY uk_username (username)
) ENGINE=InnoDB;
CREATE TABLE messages (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  uuid CHAR(36) CHARACTER SET ascii NOT NULL,
  chat_id BIGINT UNSIGNED NOT NULL,
  sender_id BIGINT UNSIGNED NOT NULL,
  content TEXT NULL,
  extra JSON NULL,
  is_recalled TINYINT NOT NULL DEFAULT 0,
  created_at DATETIME(3) NOT NULL,
  edited_at DATETIME(3) NULL,
  PRIMARY KEY (id),
  UNIQUE KEY uk_uuid (uuid),
  KEY idx_chat (chat_id, created_at)
) ENGINE=InnoDB;
CREATE TABLE files (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  file_hash CHAR(64) CHARACTER SET ascii NOT NULL,
  file_name VARCHAR(255) NOT NULL,
  file_size BIGINT UNSIGNED NOT NULL,
  storage_path VARCHAR(255) NOT NULL,
  uploader_id BIGINT UNSIGNED NOT NULL,
  created_at DATETIME(3) NOT NULL,
  PRIMARY KEY (id),
  KEY idx_hash (file_hash),
  KEY idx_uploader (uploader_id),
  CONSTRAINT fk_uploader FOREIGN KEY (uploader_id) REFERENCES users (id)
) ENGINE=InnoDB;
