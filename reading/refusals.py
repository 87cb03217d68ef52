"""reading/refusals.py: what a reply says that refuses to answer.

    CANNOT_ANSWER   "I cannot tell", "it is impossible to say"
    CANNOT_COUNT    the same of a count, also "no video was provided"
    REFUSAL         a "no" that answers nothing: "No idea", "No video was provided"
    NO_NOUN         what stands behind a "no" that is a word on its own: "no, he ..", "no because"

All are patterns, without regard to case.
"""

import re

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

# "I cannot answer", "unable to tell": a text that occurs beside it is not chosen.
CANNOT_ANSWER = re.compile(
    r"\b(?:can(?: ?not|'t)|could(?: not|n't)|(?:unable|impossible|not possible|no way) to)"
    r"(?: be)?(?: \w{1,12}ly)? (?:answer|determin|tell|say|decid|identif|choose|know)",
    re.I,
)

# What says that nothing could be counted at all.
CANNOT_COUNT = re.compile(
    r"\b(?:can(?:not|'t)|could(?: not|n't)|unable to|impossible to) (?:be )?(?:tell|say|determine|"
    r"determined|answer|count|counted|see|hear|watch|verify|know)\b"
    r"|\b(?:not|no \w{1,20}) (?:was |is |were |are )?(?:provided|available|given|attached)\b",
    re.I,
)
