"""reading/yes_no.py: whether an answer is yes or no.

yes_no(answer)      strict, for training: the first word
yes_or_no(reply)    lenient, for evaluation: in a free reply

The "no" of a refusal is none: "No idea.", "No video was provided.", "No dog, but I cannot tell".
Nor is that of "no doubt". "No, he is not", "No he isn't" and "No dog barks" are answers.
"""

import re

from reading.letters import ANSWER_IS
from reading.text import same_characters, tokens, unmarked

# "Yes" and "no" in other languages; Chinese has several words for each.
YES = (
    "yes",
    "да",
    "हाँ",
    "हां",
    "sí",
    "si",
    "oui",
    "ja",
    "sim",
    "نعم",
    "예",
    "네",
    "はい",
    "是",
    "是的",
    "对",
    "有",
)
NO = (
    "no",
    "нет",
    "नहीं",
    "non",
    "nein",
    "não",
    "لا",
    "아니요",
    "아니오",
    "いいえ",
    "不是",
    "不",
    "否",
    "没有",
    "不对",
)

# A word at the beginning; the words of scripts without blanks, longest first.
FIRST_WORD = re.compile(
    r"[\W_]{0,6}(不是|不对|没有|いいえ|はい|是的|[是否对不有没]|[^\W\d_\u3040-\u30ff\u4e00-\u9fff]"
    r"[^\s.,;:!?।。，、\"'()]{0,20})"
)

# "答案是否": the answer is no.
CHINESE_ANSWER = re.compile(
    r"答案(?:[是为:]|\s){0,3}?(不是|没有|不对|是的|[是否对不有没])\s?[。.!]?\s?$"
)

# Words between "no" and the noun that it belongs to: "no clear evidence".
ADJECTIVE = (
    r"(?:actual|additional|apparent|audible|available|clear|conclusive|concrete|definite|"
    r"definitive|direct|discernible|easy|enough|explicit|firm|further|good|hard|input|more|"
    r"obvious|other|particular|real|relevant|reliable|single|solid|specific|strong|such|"
    r"sufficient|sure|usable|useful|visible|visual|audio|video|correct|valid)"
)

# "No" before these says that nothing can be answered; or, as "no doubt", something else again.
NOT_A_NO = (
    r"(?:access|answers?|attachments?|audio|basis|certainty|clips?|clues?|comment|conclusions?|"
    r"content|context|data|descriptions?|details?|doubts?|evidence|files?|footage|guess|hints?|"
    r"ideas?|images?|indications?|info|information|inputs?|knowing|knowledge|matter|means|media|"
    r"opinion|pictures?|possibility|problem|proof|question|recordings?|reply|response|"
    r"results?|judg(?:e?ment|ing)s?|determination|verdict|decision|labels?|need|objections?|"
    r"saying|signal|soundtrack|sounds?|subtitles|support|telling|thanks|transcripts?|videos?|"
    r"ways?|wonder|worries)"
)

# What a refusal says behind "no" and a noun: "No frame was provided", "no speech, so I can't tell".
CANNOT = (
    r"(?:(?:is|are|was|were|has been|have been|been|being) (?:not )?(?:\w{1,12}ly )?"
    r"(?:available|provided|given|attached|uploaded|shared|included|supplied|accessible|loaded|"
    r"received|submitted|sent)"
    r"|(?:available|provided|given|attached|uploaded|shared|included|supplied)(?=[.,;!)]|$)"
    r"|(?:can(?:not|'t| not)|could(?: not|n't)|(?:am|is|are) (?:unable|impossible|not able)|unable)"
    r" (?:to |be )?(?:\w{1,12}ly )?(?:tell|say|determine|determined|answer|answered|know|known|"
    r"judge|judged|decide|decided|see|hear|watch|verify|confirm|given|assess|access)"
    r"|not (?:possible|clear|sure|certain|enough)|unclear|impossible to)"
)

# "No" that begins a clause, or is a word on its own, belongs to no noun.
NO_NOUN = (
    r"(?:he|she|it|they|we|you|i|this|that|these|those|there|the|a|an|his|her|its|their|my|not|"
    r"because|since|as|and|but|so|sorry|longer|or|if|yes|no)"
)

# A "no" that answers nothing; found in replies without regard to case.
REFUSAL = re.compile(
    rf"\bno (?:{ADJECTIVE}(?: and |,? )){{0,3}}{NOT_A_NO}\b"
    rf"|\bno (?:(?!(?:{NO_NOUN}|one|body)\b)[\w-]{{1,20}} ){{1,2}}"
    r"(?:answer|ideas?|way|clue|evidence|information|doubt|conclusion|response)"
    r"(?= ?(?:[.,;:!?)]|$|(?:to|of|is|was|can|could|exists|possible|available)\b))"
    rf"|\bno(?: one)? (?!{NO_NOUN}\b)(?:[\w-]{{1,20}} ){{0,4}}?{CANNOT}\b"
    rf"|\bno (?!{NO_NOUN}\b)[\w-]{{1,20}}[^.!?\n]{{0,120}}?\bI {CANNOT}\b"
    r"|\bno one (?:knows|(?:can|could|would) (?:tell|say|know|answer|judge|decide|be sure))\b"
    r"|\bno (?:l[oae]s? )?(?:s[ée]|puedo|se puede|se sabe|es posible|estoy segur[oa]|tengo)\b"
    r"|\bno hay (?:respuesta|video|vídeo|audio|informaci[óo]n|duda|forma|manera|evidencia)\b"
    r"|\bnon (?:l[oa] )?(?:so|posso|si può|è possibile|è chiaro|sono sicur[oa])\b"
    r"|\bnão (?:o )?(?:sei|posso|se pode|é possível|consigo|há (?:vídeo|áudio|resposta|dúvida))\b"
    r"|\bнет (?:ответа|данных|видео|сомнений|информации|возможности|звука|аудио)\b"
    r"|不(?:知道|清楚|太清楚|确定|太确定|明确|能确定|能判断|好说|得而知|容置疑|一定)"
    r"|没有?(?:任何|足够的?|提供|明确的?){0,2}"
    r"(?:视频|音频|答案|办法|信息|证据|线索|疑问|声音|图像|想法|把握|依据|提供)|没法|对不起|是否|是不是",
    re.I,
)


def yes_no(text: str, options: list[str] | None = None) -> str | None:
    """'yes' or 'no' by the answer's first word, None otherwise.

    >>> yes_no("Yes, it does."), yes_no("不是"), yes_no("Yesterday")
    ('yes', 'no', None)
    >>> yes_no("No he isn't"), yes_no("No idea."), yes_no("No doubt, he lies.")
    ('no', None, None)
    """
    # a dash ends the word: "No—he lies"
    text = re.sub(r"[^\S\n]{1,9}", " ", same_characters(re.sub("[–—]", " - ", text)))
    match = FIRST_WORD.match(text)
    word = match[1].casefold() if match else ""
    if match and REFUSAL.match(text, match.start(1)):
        return None
    if word in YES:
        return "yes"
    return "no" if word in NO else None


def yes_or_no(text: str) -> str | None:
    """'yes' or 'no': the first word, else what is last said to be the answer, else the only one.

    >>> yes_or_no("**No**, he does."), yes_or_no("The answer is yes; no doubt.")
    ('no', 'yes')
    >>> print(yes_or_no("It is no sign, yes"), yes_or_no("Sorry, no video was provided."))
    None None
    """
    reply = unmarked(text)
    if word := yes_no(reply):
        return word

    declared = [yes_no(reply[link.end() : link.end() + 40]) for link in ANSWER_IS.finditer(reply)]
    declared = [word for word in declared if word]
    if declared:
        return declared[-1]

    if match := CHINESE_ANSWER.search(reply):
        return yes_no(match[1])

    # a last line that is one of the words
    lines = reply.splitlines()
    if lines and len(tokens(lines[-1][:40])) == 1 and len(lines[-1]) < 40 and yes_no(lines[-1]):
        return yes_no(lines[-1])

    # the "no" of a refusal does not occur, nor does what it refuses
    occurring = set(
        re.findall(r"\b(?:yes|no)\b", REFUSAL.sub(" ", re.sub(r"\s+", " ", reply)).lower())
    )
    return occurring.pop() if len(occurring) == 1 else None
