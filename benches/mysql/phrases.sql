-- What people say, in a database that is not dumped: 65,536 phrases of three to ten words, half of them English, common
-- words more often, and names that no list has. Chat text shrinks to a little under a half, and so does this.
CREATE DATABASE phrases CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
USE phrases;
SET @english = CONCAT('the to and you I is it for that a of in we be on have this not can with me are will at so but do if was ',
  'my your what just they all up there or one about get no now go here out from how when know like would ',
  'see good time some think as need let him her more back today yes want then make them work look well been ',
  'could did has tomorrow right say please still thanks sorry where take only want first after next before ',
  'team file meeting call week send really maybe before again sure come our new server issue update check ',
  'should also because something people two last day into over too very other same long problem change try ',
  'release customer price fixed failed build review deadline version later night morning office phone order ',
  'payment invoice contract project client design test data backup restore password login account message ',
  'picture video link open close start finish wait ready done great nice happy birthday congratulations ',
  'weekend holiday travel flight hotel train station hospital weather rain school teacher children family ',
  'friend dinner lunch coffee restaurant food money cheap expensive receipt delivery address number ',
  'question answer example important different possible everything anything nothing someone anyone always ',
  'never often usually already almost together probably definitely unfortunately actually especially ',
  'understand remember forget believe expect explain decide prepare discuss improve continue');
SET @chinese = CONCAT('的 ， 我 了 。 你 是 不 在 ？ 好 有 这个 吗 就 我们 也 说 去 ！ 都 可以 没有 什么 要 今天 他 谢谢 会 看 ',
  '还 一下 大家 明天 现在 一个 知道 怎么 😂 收到 时候 那 公司 工作 好的 开会 下午 到 她 给 已经 请 问题 ',
  '时间 因为 但是 如果 所以 觉得 可能 应该 一起 吃饭 晚上 上午 昨天 项目 客户 文件 发 群里 👍 😀 哈哈 ',
  '没问题 麻烦 先 再 等 来 走 家 孩子 学校 老师 朋友 电话 手机 号码 地址 快递 价格 报价 合同 方案 版本 更新 ',
  '服务器 密码 登录 系统 测试 上线 数据 备份 恢复 图片 视频 链接 打开 看不到 为什么 哪里 谁 多少 几点 周末 ',
  '星期一 周五 下周 上个月 今年 明年 春节 放假 回来 出差 北京 上海 深圳 杭州 机场 高铁 酒店 医院 天气 下雨 ',
  '太冷了 热 身体 健康 生日快乐 🎂 恭喜 🎉 辛苦了 加油 💪 不好意思 抱歉 稍等 马上 刚才 以后 之前 差不多 ',
  '真的 非常 特别 有点 比较 最近 突然 终于 其实 当然 一定 必须 需要 希望 喜欢 想 买 卖 钱 便宜 贵 付款 发票 ',
  '退货 订单 🙏 🌹 😭 🤔 @所有人 …… ～ （ ） ：');
SET @characters = CONCAT('一上下不与世业东两个中为主么义之乐也习书买了事二于五些交产京亲人什今从他代以们件价任会但住作你使保信倒候',
  '借值做停像儿元先光免入全公六共关其具内再写军农冷决况准几出分切创初别利到制前办加务动助努劳势包北区十千升',
  '半华单卖南占卡压原去参友双反发取受变口只叫可台右号各合同名后向吗吧听吸吹告员味呢周命和品响哥唱商啊喜嘴器',
  '四回因园困国图土在地场坏坐块城基声处备复夏外多夜够大天太失头奇女好如妈始姐子字存学它安完定实客室害家容密',
  '对导封将小少就局层居屋展山岁工左差己已市师帮常平年并广床应店度座康建开式张强当影往待很律得心必忘快念怎思',
  '急性总恐息情想意感愿慢成我或战所手才打托找技把护报拉择持指换据排接推提搬播支收改放政故效救教数整文料断新',
  '方旅无日早时明易星春是晚晨景晴更最月有朋服望木本术机权条来极林果某查标树校样根格案桌梦');
CREATE TABLE phrases (id INT PRIMARY KEY, phrase VARCHAR(255) NOT NULL);
INSERT INTO phrases
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 65535),
  k (k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM k WHERE k < 9),
  r AS (SELECT k, i, CRC32(CONCAT(i, 'k', k)) AS r FROM n JOIN k ON k < 3 + i % 8),
  picks AS (SELECT k, i, r, POW(r / 4294967296, 2) AS often FROM r)
SELECT i, GROUP_CONCAT(CASE
    WHEN r % 10 < 5 THEN CONCAT(SUBSTRING_INDEX(SUBSTRING_INDEX(@english, ' ', 1 + FLOOR(233 * often)), ' ', -1), ' ')
    WHEN r % 10 < 7 THEN SUBSTRING_INDEX(SUBSTRING_INDEX(@chinese, ' ', 1 + FLOOR(191 * often)), ' ', -1)
    ELSE CONCAT(SUBSTRING(@characters, 1 + r DIV 5 % 355, 1), SUBSTRING(@characters, 1 + r DIV 2048 % 355, 1))
  END ORDER BY k SEPARATOR '')
FROM picks GROUP BY i;
