import { describe, expect, test } from 'vitest'
import type { Message } from './api'
import { openedBy } from './route'
import { joined } from './stream'
import { merged } from './talks'
import { branches, columns, nextParent, notices, trail } from './tree'
import { formulas, groupOf, hasFormula, shortTime, splitNumbers } from './words'

let clock = 0

function message(id: string, parent: string | null, more: Partial<Message> = {}): Message {
  return {
    id,
    parent,
    role: id.startsWith('q') ? 'user' : 'assistant',
    content: id,
    created_at: ++clock,
    notice: '',
    state: 'done',
    error: '',
    model: 'xinglin@1a2b3c4d',
    dropped: 0,
    liked: null,
    correction: null,
    ...more,
  }
}

const ids = (messages: Message[]) => messages.map(({ id }) => id)

describe('branches', () => {
  const tree = [
    message('q1', null),
    message('a1', 'q1'),
    message('q2', 'a1'),
    message('a2', 'q2'),
    message('a1b', 'q1'), // asked again
    message('q1b', null), // edited
    message('a3', 'q1b'),
  ]

  test('the latest branch is shown until another is chosen', () => {
    expect(ids(trail(tree, {}))).toEqual(['q1b', 'a3'])
    expect(ids(trail(tree, { '': 'q1' }))).toEqual(['q1', 'a1b'])
    expect(ids(trail(tree, { '': 'q1', q1: 'a1' }))).toEqual(['q1', 'a1', 'q2', 'a2'])
  })

  test('a chosen message that is gone is passed over', () => {
    expect(ids(trail(tree, { '': 'deleted' }))).toEqual(['q1b', 'a3'])
  })

  test('answers of several models are columns, each with its own branches', () => {
    const answers = [message('a', 'q'), message('b', 'q', { model: 'other@ffffffff' }), message('c', 'q', { model: 'xinglin@22222222' })]
    expect(columns(answers).map(ids)).toEqual([['a', 'c'], ['b']])
    expect(ids(branches(answers).get('q')!)).toEqual(['a', 'b', 'c'])
  })

  test('the next question follows an answer, or stands beside a question that got none', () => {
    expect(nextParent([])).toBeNull()
    expect(nextParent(tree.slice(0, 2))).toBe('a1')
    expect(nextParent(tree.slice(0, 3))).toBe('a1')
    expect(nextParent(tree.slice(0, 1))).toBeNull()
  })

  test('notices are said once, the latest question first', () => {
    const shown = [message('q1', null, { notice: '【急症】一\n【急症】二' }), message('q2', 'a', { notice: '【急症】三\n【急症】一' })]
    expect(notices(shown)).toEqual(['【急症】三', '【急症】一', '【急症】二'])
  })

  test('messages are replaced by id or added', () => {
    const later = message('q1', null, { content: '改过' })
    expect(merged([message('q1', null)], [later, message('a1', 'q1')]).map(({ content }) => content)).toEqual(['改过', 'a1'])
  })
})

describe('streams', () => {
  test('a delta is joined at its place, and one that comes twice changes nothing', () => {
    expect(joined('', { offset: 0, text: '多喝水' })).toBe('多喝水')
    expect(joined('多喝', { offset: 1, text: '喝水。' })).toBe('多喝水。')
    expect(joined('多喝水。', { offset: 0, text: '多喝' })).toBe('多喝水。')
  })

  test('a gap is seen', () => {
    expect(joined('多', { offset: 2, text: '水' })).toBeNull()
  })
})

describe('words', () => {
  const now = new Date(2026, 10, 30, 12).getTime()
  const daysAgo = (days: number) => new Date(2026, 10, 30 - days, 23).getTime()

  test('conversations are grouped by calendar days', () => {
    const groups = [0, 1, 6, 7].map((days) => groupOf({ pinned: false, updated_at: daysAgo(days) }, now))
    expect(groups).toEqual(['今天', '昨天', '近 7 天', '更早'])
    expect(groupOf({ pinned: true, updated_at: now }, now)).toBe('置顶')
  })

  test('times are short', () => {
    expect(shortTime(now, now)).toBe('12:00')
    expect(shortTime(daysAgo(1), now)).toBe('昨天')
    expect(shortTime(daysAgo(10), now)).toBe('11月20日')
    expect(shortTime(daysAgo(400), now)).toBe('2025年10月26日')
  })

  test('emergency numbers are cut out, parts of other numbers are not', () => {
    expect(splitNumbers('请拨打 120 或 12356。血压 1200')).toEqual(['请拨打 ', '120', ' 或 ', '12356', '。血压 1200'])
  })

  test('formulas are found, prices and code are not', () => {
    expect(formulas('设 \\(x^2\\) 与 $a_1$')).toBe('设 $$x^2$$ 与 $$a_1$$')
    expect(formulas('\\[ a \\]')).toBe('\n$$\na\n$$\n')
    for (const plain of ['花费 $5 到 $10', '`$a_1$`', '```\n\\(x\\)\n```']) expect(hasFormula(plain)).toBe(false)
  })
})

test('the hash names what is open, and nothing else does', () => {
  const id = '0123456789abcdef0123456789abcdef'
  expect(openedBy(`#/c/${id}`)).toEqual({ conversation: id, admin: false })
  expect(openedBy('#/c/../x')).toEqual({ conversation: null, admin: false })
  expect(openedBy('#/admin')).toEqual({ conversation: null, admin: true })
})
