//! What stands on the sheet, in both languages and in no form yet.

use crate::jobs::kit::Kit;

/// Something in English and in Chinese.
pub(super) type Words = (&'static str, &'static str);

/// In which languages a sheet is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Languages {
    /// English.
    pub(super) en: bool,
    /// Chinese.
    pub(super) zh: bool,
}

impl Languages {
    /// Returns the words in these languages, each with the language's name.
    pub(super) fn of(self, (en, zh): Words) -> Vec<(&'static str, &'static str)> {
        let all = [("en", en, self.en), ("zh-CN", zh, self.zh)];
        all.into_iter().filter(|(_, _, is)| *is).map(|(name, words, _)| (name, words)).collect()
    }

    /// Returns the words in these languages as one line.
    pub(super) fn line(self, words: Words) -> String {
        self.of(words).into_iter().map(|(_, words)| words).collect::<Vec<_>>().join(" ")
    }
}

/// A sheet.
pub(super) struct Sheet {
    /// The stack's name.
    pub(super) stack: String,
    /// Its parts, in order.
    pub(super) sections: Vec<Section>,
    /// What its code says.
    pub(super) code: String,
}

/// A part of a sheet.
pub(super) struct Section {
    /// What it is about.
    pub(super) heading: Words,
    /// Its blocks, in order.
    pub(super) blocks: Vec<Block>,
}

/// Something that is shown in one way.
pub(super) enum Block {
    /// Prose.
    Prose(Words),
    /// Names and values.
    Facts(Vec<(Words, Vec<String>)>),
    /// Lines to type, or to write into a file.
    Lines(Vec<String>),
    /// A line to write on by hand.
    Blank,
}

/// What the page is called.
pub(super) const TITLE: Words = ("Recovery sheet", "恢复手册");
/// What stands beside the code.
pub(super) const CODE: Words =
    ("The code holds the public facts above, and no secret.", "二维码仅含以上公开信息，不含任何密钥。");

impl Sheet {
    /// Writes the sheet; `notes` say where identities are kept.
    pub(super) fn new(kit: &Kit, notes: &[String]) -> Self {
        let sections = vec![facts(kit), identities(kit, notes), with_lifeboat(kit), by_hand(kit)];
        Self { stack: kit.stack.clone(), sections, code: kit.facts().to_string() }
    }
}

fn facts(kit: &Kit) -> Section {
    let made = kit.made.with_timezone(&kit.timezone).format("%Y-%m-%d %H:%M %Z");
    let offsites = kit.offsites.iter().map(|(name, place)| format!("{name}: {place}")).collect();
    let revoked = kit.revoked.iter().map(|(signer, last)| format!("{signer} > {last}")).collect();
    let facts: [(Words, Vec<String>); 9] = [
        (("Repository", "备份仓库"), vec![kit.repository.clone()]),
        (("Lies at", "位置"), vec![kit.place.clone()]),
        (("Copies at", "异地副本"), offsites),
        (("Data opens to", "数据接收公钥"), kit.recipients.clone()),
        (("Indexes open to", "索引接收公钥"), kit.index_recipients.clone()),
        (("Signed by", "签名公钥"), kit.signers.clone()),
        (("Removals signed by", "删除操作签名公钥"), kit.maintainers.clone()),
        (("Not believed after no.", "此序号之后的签名不可信"), revoked),
        (("Made", "制作时间"), vec![format!("{made} · lifeboat {}", kit.version)]),
    ];
    let known = facts.into_iter().filter(|(_, values)| !values.is_empty()).collect();
    Section { heading: ("What there is", "备份概况"), blocks: vec![Block::Facts(known)] }
}

fn identities(kit: &Kit, notes: &[String]) -> Section {
    let mut blocks = vec![Block::Prose((
        "One identity file whose public half is named under “Data opens to” opens every backup. Without one \
         nobody can open them. Passphrases are kept in another place.",
        "任何一把与上述“数据接收公钥”对应的私钥文件即可打开全部备份；没有私钥，任何人都无法恢复。口令请另处保存。",
    ))];
    if notes.is_empty() {
        blocks.push(Block::Prose(("The identity files are kept at:", "私钥文件存放于：")));
        blocks.extend(kit.recipients.iter().map(|_| Block::Blank));
    } else {
        blocks.push(Block::Facts(vec![(("Kept at", "存放于"), notes.to_vec())]));
    }
    Section { heading: ("Where the identities are", "私钥存放处"), blocks }
}

fn with_lifeboat(kit: &Kit) -> Section {
    let typed = |line: &str| format!("lifeboat --policy sheet.toml --identity identity.txt {line}");
    let lines =
        ["keys check", "snapshots", "ls latest", "export latest SOURCE --format tar > source.tar"].map(typed);
    let back = "lifeboat --policy lifeboat.toml --identity identity.txt restore latest --plan".to_owned();
    Section {
        heading: ("On a new machine, with lifeboat", "新机器上使用 lifeboat 恢复"),
        blocks: vec![
            Block::Prose((
                "Write this as sheet.toml. It is enough to read the repository; change `options` if it lies \
                 elsewhere now. Variables that it names hold the store's credentials.",
                "将以下内容存为 sheet.toml，即可读取仓库；若仓库位置已变，请修改 options。其中提到的环境变量为存储服务的访问凭证。",
            )),
            Block::Lines(kit.policy.trim_end().lines().map(str::to_owned).collect()),
            Block::Lines(lines.to_vec()),
            Block::Prose((
                "To put it all back, take the stack's own policy out of the backup (or a copy of it), start empty \
                 servers, look at the plan, and run it again without --plan.",
                "如需完整恢复：从备份中取出原策略文件（或其副本），启动空的数据库与存储服务，先查看计划，再去掉 --plan 执行。",
            )),
            Block::Lines(vec![back]),
        ],
    }
}

fn by_hand(kit: &Kit) -> Section {
    let signers: String = kit.signers.iter().map(|signer| [" -k ", signer].concat()).collect();
    let mut blocks = Vec::new();
    if !kit.is_folder {
        blocks.push(Block::Prose((
            "Copy the whole repository into a local folder first, with any client of the store.",
            "请先用任意客户端把整个仓库复制到本地目录。",
        )));
    }
    blocks.extend([
        Block::Prose((
            "With Debian's own tools, in the repository's folder. RECOVERY.md there tells the rest.",
            "仅用 Debian 自带工具，在仓库目录下执行；其余说明见该目录中的 RECOVERY.md。",
        )),
        Block::Lines(vec![
            "apt install age zstd tar jq coreutils minisign".to_owned(),
            format!("bash recover.sh -i identity.txt -o /tmp/result{signers} latest"),
        ]),
    ]);
    if !kit.revoked.is_empty() {
        blocks.push(Block::Prose((
            "recover.sh knows no revoked keys: look at the signer and “seq” of what it picks before you use it.",
            "recover.sh 不识别已吊销的密钥：使用结果前请核对签名者与序号（seq）。",
        )));
    }
    Section { heading: ("By hand, without lifeboat", "不使用 lifeboat 手工恢复"), blocks }
}
