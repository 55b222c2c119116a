// The texts of the page, in two languages.

const EN = {
  headline: "Show it once. It learns.",
  intro:
    "Draw a few symbols, once each. Then draw one of them again. Each network below takes a few gradient steps on your " +
    "examples, and says which symbol it sees. They have the same layers. What differs is where they start.",
  skip: "Skip to the answers",
  examples: "Your examples",
  examplesHint: "One drawing of each symbol is enough. Draw over these, add symbols, or upload pictures.",
  question: "Draw one again",
  questionHint: "A little differently, as one does.",
  next: "Another",
  keys: "By keyboard: arrows move the pen, space puts it down and lifts it, delete erases.",
  answers: "What they learned",
  clear: "Clear",
  reset: "Example",
  undo: "Undo",
  redo: "Redo",
  theme: "Light or dark",
  language: "中文",
  languageLabel: "用中文显示",
  addClass: "Add a symbol",
  addExample: "Add an example of {name}",
  removeClass: "Remove {name}",
  className: "Name of symbol {number}",
  erase: "Erase",
  upload: "Upload a picture",
  examplePad: "Example {number} of {name}. Draw here.",
  queryPad: "The drawing to be recognised. Draw here.",
  penAt: "pen {state}, {x} from the left, {y} from the top",
  penDown: "down",
  penUp: "up",
  empty: "draw",
  seen: "as the network sees it",
  stepLabel: "Gradient steps on your examples",
  stepValue: "{step} of {steps}",
  play: "Play the steps",
  pause: "Pause",
  untrained: "Untrained",
  fromUntrained: "starts from random weights",
  fromMaml: "starts from weights meta-learned by MAML",
  fromReptile: "starts from weights meta-learned by Reptile",
  fromRun: "starts from the weights of your run",
  measured: "{accuracy} on {ways} new characters, one example of each",
  loss: "Loss on your examples",
  lossAt: "loss {loss} after {step} steps",
  tied: "no idea yet",
  download: "Download the adapted network",
  downloadShort: "Download",
  milliseconds: "adapted in {ms} ms",
  needTwo: "Draw examples of at least two symbols.",
  needQuery: "Draw one of them again, in 2.",
  spoken: "After {step} steps. {answers}.",
  spokenOne: "{learner}: {name}, {probability}",
  working: "adapting…",
  aboutTitle: "What happens here?",
  about: [
    "Every drawing is centred, scaled and thinned to 28×28 pixels, like the Omniglot characters that the first two " +
      "networks were meta-trained on. They have never seen your symbols: they were trained to learn new ones.",
    "With each stroke, every network starts anew from its own first weights. It takes gradient steps on the loss of your " +
      "examples, all layers included. The slider shows its loss and its answer after each step. At step 0 none of them " +
      "knows anything of your symbols.",
    "MAML chose its first weights by differentiating through these steps. Reptile moved its weights towards where such " +
      "steps lead. The untrained network has the same layers and starts from random weights. MAML's network takes steps " +
      "of size 0.1, the other two of size 0.4.",
  ],
  privateOnServer: "Your drawings go to this server only, which keeps nothing.",
  privateInBrowser: "Your drawings stay in this browser. The gradient steps are taken here, and nothing is sent anywhere.",
  errorOffline: "The server does not answer. Is it still running?",
  errorServer: "The server refused: {reason}",
  errorBrowser: "This browser cannot run the learners: {reason}",
  errorBusy: "The server is busy. Trying again…",
  errorKind: "{name} is no picture that this browser can read. Choose a PNG, JPEG, WebP, GIF or BMP file.",
  errorLarge: "{name} is too large. Choose a picture of at most 10 MB and 40 million pixels.",
  errorBlank: "{name} shows nothing that stands out from its background.",
};

const ZH = {
  headline: "看一遍，就学会。",
  intro:
    "每个符号只画一次，然后再画其中一个。下面的网络在你的样本上做几步梯度下降，再说出它认出的是哪个符号。" +
    "它们的结构相同，不同的是从哪里出发。",
  skip: "跳到结果",
  examples: "你的样本",
  examplesHint: "每个符号画一次就够了。可以在上面继续画、添加符号，或上传图片。",
  question: "再画一个",
  questionHint: "不必一模一样。",
  next: "换一个",
  keys: "键盘：方向键移动画笔，空格键落笔或提笔，删除键清空。",
  answers: "它们学到了什么",
  clear: "清空",
  reset: "示例",
  undo: "撤销",
  redo: "重做",
  theme: "浅色或深色",
  language: "English",
  languageLabel: "Show in English",
  addClass: "添加符号",
  addExample: "为 {name} 添加样本",
  removeClass: "移除 {name}",
  className: "第 {number} 个符号的名称",
  erase: "擦除",
  upload: "上传图片",
  examplePad: "{name} 的第 {number} 个样本。在此绘制。",
  queryPad: "要识别的图。在此绘制。",
  penAt: "{state}，距左 {x}，距上 {y}",
  penDown: "落笔",
  penUp: "提笔",
  empty: "画",
  seen: "网络看到的样子",
  stepLabel: "在样本上的梯度步数",
  stepValue: "第 {step}/{steps} 步",
  play: "逐步播放",
  pause: "暂停",
  untrained: "未训练",
  fromUntrained: "从随机权重出发",
  fromMaml: "从 MAML 元学习得到的权重出发",
  fromReptile: "从 Reptile 元学习得到的权重出发",
  fromRun: "从你训练得到的权重出发",
  measured: "{ways} 个新字符、每个一例：准确率 {accuracy}",
  loss: "样本上的损失",
  lossAt: "{step} 步后损失 {loss}",
  tied: "还不知道",
  download: "下载适应后的网络",
  downloadShort: "下载",
  milliseconds: "适应用时 {ms} 毫秒",
  needTwo: "请至少画两个符号。",
  needQuery: "请在第 2 步再画其中一个。",
  spoken: "{step} 步之后。{answers}。",
  spokenOne: "{learner}：{name}，{probability}",
  working: "正在适应…",
  aboutTitle: "这里发生了什么？",
  about: [
    "每个图都会居中、缩放并细化为 28×28 像素，与前两个网络元训练所用的 Omniglot 字符一致。" +
      "它们从未见过你的符号：它们学的是如何学会新符号。",
    "每画一笔，每个网络都从自己的初始权重重新出发，对你的样本的损失做梯度下降，所有层都参与。" +
      "滑块显示每一步之后的损失和答案。第 0 步时，它们对你的符号一无所知。",
    "MAML 对这些步骤求导来选择初始权重；Reptile 让权重朝这些步骤所到之处移动。未训练的网络结构相同，但从随机权重出发。" +
      "MAML 的步长为 0.1，另外两个为 0.4。",
  ],
  privateOnServer: "你的图只发送给这台服务器，服务器不保存任何内容。",
  privateInBrowser: "你的图不会离开这个浏览器：梯度步骤在这里计算，不会发送任何内容。",
  errorOffline: "服务器没有回应。它还在运行吗？",
  errorServer: "服务器拒绝了请求：{reason}",
  errorBrowser: "此浏览器无法运行这些网络：{reason}",
  errorBusy: "服务器正忙，正在重试…",
  errorKind: "{name} 不是浏览器能读取的图片。请选择 PNG、JPEG、WebP、GIF 或 BMP 文件。",
  errorLarge: "{name} 太大。请选择不超过 10 MB、4000 万像素的图片。",
  errorBlank: "{name} 中没有从背景中突出的内容。",
};

const TEXTS = { en: EN, zh: ZH };

function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Without storage the choice holds until the page is closed.
  }
}

let language = remembered("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
if (!(language in TEXTS)) language = "en";

export const recall = remembered;

// The text of a key, with {names} replaced.
export function t(key, values = {}) {
  const text = TEXTS[language][key];
  if (typeof text !== "string") return text;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export function locale() {
  return language === "zh" ? "zh-CN" : "en";
}

export function otherLanguage() {
  language = language === "zh" ? "en" : "zh";
  remember("language", language);
}

export function percent(value, digits = 0) {
  return new Intl.NumberFormat(locale(), { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

// Fill in all elements that name their text.
export function translate() {
  document.documentElement.lang = locale();
  for (const element of document.querySelectorAll("[data-i18n]")) element.textContent = t(element.dataset.i18n);
}
