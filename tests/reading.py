"""What the tests of reading share: files as they are written, and what is read of them."""

import json

import orjson

from xinglin.dialogues.reading import Broken, records

ROWS = [{"data": ["问：头痛，发热三天", "答：量体温，多休息"]}, {"data": ["问：“咳嗽”", "答：看呼吸科。"]}]


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


TABLE = 'department,title,ask,answer\n内科,头痛,"发热三天\n体温39℃，怕冷",请就诊\n外科,,"脚""崴""了",冰敷\n'


def read(file):
    return [(record.element or record.line, loaded(record.value)) for record in records(file)]


def loaded(value):
    return json.loads(value) if isinstance(value, bytes) else value


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def told(file, columns=None):
    """Return what is read: a record as it is, of what is broken the reason, the text and how many lines it covers."""
    return [
        (record.value.reason, record.value.text, record.lines) if isinstance(record.value, Broken) else loaded(record.value)
        for record in records(file, columns)
    ]


ENCODINGS = ["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16", "utf-16-le", "utf-16-be"]


def row(number):
    return {"question": f"头疼{number}怎么办", "answer": f"建议多喝水，注意休息{number}"}


def table_of(numbers, delimiter=","):
    return [f"{row(number)['question']}{delimiter}{row(number)['answer']}\n" for number in numbers]


TALKS = [
    {"data": ["问：咳嗽{[怎么办", "答：多喝温水]"]},
    {"department": "内科", "data": ['问：他说"头痛"', "答：好\\"]},
    {
        "conversations": [
            {"from": "human", "value": "问甲乙"},
            {"from": "gpt", "value": "答丙丁"},
            {"from": "human", "value": "再"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "问{甲}乙"},
            {"role": "assistant", "content": "答"},
            {"role": "user", "content": ""},
        ]
    },
]


def sound(record):
    try:
        return isinstance(record.value, bytes) and bool(orjson.loads(record.value) or True)
    except orjson.JSONDecodeError:
        return False
