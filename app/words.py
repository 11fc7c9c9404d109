"""What the page says of itself."""

from app import marks

DISCLAIMER = "本页由语言模型回答，不是医生，可能出错，不能代替就诊。紧急情况请立即拨打 120；心理危机请拨打 12356。"
PAGE: dict[str, str | list[str]] = {
    "title": "杏林",
    "subtitle": "医疗问答",
    "disclaimer": DISCLAIMER,
    "generated": marks.EXPLICIT,
    "placeholder": "写下您的问题（Shift+回车换行）",
    "examples": [
        "感冒三天了，要吃消炎药吗？",
        "体检说血压 145/92，需要吃药吗？",
        "孩子发烧 38.2℃，精神还好，怎么护理？",
        "幽门螺杆菌阳性一定要治吗？",
    ],
}
