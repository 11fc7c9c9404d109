/** What an administrator sees: feedback to review, keys, counts, releases. */

import { Button, Input, InputNumber, Modal, Popconfirm, Segmented, Select, Tabs } from 'antd'
import { type FormEvent, type ReactNode, useCallback, useEffect, useState } from 'react'
import { reasonOf, request } from './api'
import { CopyButton } from './CopyButton'
import { fullTime } from './words'

interface Feedback {
  message: string
  conversation: string
  question: string
  answer: string
  liked: boolean | null
  correction: string | null
  model: string
  state: 'open' | 'approved' | 'rejected'
  created_at: number
}

interface Key {
  id: string
  name: string
  person: string
  person_name: string
  admin: boolean
  created_at: number
  expires_at: number | null
  revoked_at: number | null
  used_at: number | null
}

interface Day {
  day: string
  questions: number
  answers: number
  liked: number
  disliked: number
  failed: number
}

interface Counts {
  persons: number
  conversations: number
  questions: number
  answers: number
  liked: number
  disliked: number
  corrected: number
  failed: number
  days: Day[]
}

interface Release {
  model: string
  answers: number
  liked: number
  disliked: number
  corrected: number
  first_at: number
  last_at: number
}

export default function Admin() {
  const tabs = [
    { key: 'feedback', label: '反馈', children: <FeedbackReview /> },
    { key: 'keys', label: '密钥', children: <Keys /> },
    { key: 'counts', label: '用量', children: <CountsView /> },
    { key: 'releases', label: '模型版本', children: <Releases /> },
  ]
  return (
    <>
      <a href="#/">返回对话</a>
      <Tabs items={tabs} destroyOnHidden />
    </>
  )
}

/** Return what a path gives, and a function that fetches it again. */
function useFetched<T>(path: string): [value: T | null, error: string, refresh: () => Promise<void>] {
  const [value, setValue] = useState<T | null>(null)
  const [error, setError] = useState('')
  const refresh = useCallback(async () => {
    try {
      setValue(await request<T>('GET', path))
      setError('')
    } catch (failure) {
      setError(reasonOf(failure))
    }
  }, [path])
  useEffect(() => void refresh(), [refresh])
  return [value, error, refresh]
}

const Failure = ({ children }: { children: ReactNode }) => (children ? <p role="alert" className="error">{children}</p> : null)

const FEEDBACK_STATES = [
  { value: 'open' as const, label: '待审' },
  { value: 'approved' as const, label: '已通过' },
  { value: 'rejected' as const, label: '已拒绝' },
]

function FeedbackReview() {
  const [state, setState] = useState<Feedback['state']>('open')
  const [items, setItems] = useState<Feedback[]>([])
  const [more, setMore] = useState(false)
  const [error, setError] = useState('')

  const fetchPage = useCallback(
    async (before?: number) => {
      const query = new URLSearchParams({ state, limit: '50', ...(before && { before: String(before) }) })
      try {
        const page = await request<{ feedback: Feedback[]; more: boolean }>('GET', `/admin/feedback?${query}`)
        setItems((known) => (before ? [...known, ...page.feedback] : page.feedback))
        setMore(page.more)
        setError('')
      } catch (failure) {
        setError(reasonOf(failure))
      }
    },
    [state],
  )
  useEffect(() => void fetchPage(), [fetchPage])

  async function decide(item: Feedback, next: Feedback['state']) {
    try {
      await request('PUT', `/admin/feedback/${item.message}`, { state: next })
      setItems((known) => known.filter(({ message }) => message !== item.message))
    } catch (failure) {
      setError(reasonOf(failure))
    }
  }

  return (
    <>
      <div className="bar">
        <Segmented options={FEEDBACK_STATES} value={state} onChange={setState} aria-label="反馈的状态" />
        <a href="/api/admin/feedback/export" download>
          导出已通过的反馈（JSONL）
        </a>
      </div>
      <Failure>{error}</Failure>
      {items.length === 0 && <p className="quiet">没有这样的反馈。</p>}
      {items.map((item) => (
        <section className="card" key={item.message}>
          <p className="quiet">
            {fullTime(item.created_at)} · {item.model}
            {item.liked !== null && ` · ${item.liked ? '有用' : '没用'}`}
          </p>
          <Field name="问题">{item.question}</Field>
          <Field name="回答">{item.answer}</Field>
          {item.correction !== null && <Field name="改正">{item.correction}</Field>}
          <div className="bar">
            {FEEDBACK_STATES.filter(({ value }) => value !== item.state).map(({ value }) => (
              <Button key={value} type={value === 'approved' ? 'primary' : 'default'} onClick={() => decide(item, value)}>
                {{ open: '改回待审', approved: '通过', rejected: '拒绝' }[value]}
              </Button>
            ))}
          </div>
        </section>
      ))}
      {more && <Button onClick={() => fetchPage(items.at(-1)!.created_at)}>更早的反馈</Button>}
    </>
  )
}

const Field = ({ name, children }: { name: string; children: ReactNode }) => (
  <div className="field">
    <strong>{name}</strong>
    <p>{children}</p>
  </div>
)

const NEW_PERSON = ''

function Keys() {
  const [fetched, error, refresh] = useFetched<{ keys: Key[] }>('/admin/keys')
  const [name, setName] = useState('')
  const [days, setDays] = useState<number | null>(90)
  const [person, setPerson] = useState(NEW_PERSON)
  const [made, setMade] = useState('')
  const [failure, setFailure] = useState('')
  const keys = fetched?.keys ?? []
  const persons = [...new Map(keys.map((key) => [key.person, key.person_name || key.name]))]

  async function make(event: FormEvent) {
    event.preventDefault()
    try {
      const body = { name: name.trim(), days: days ?? undefined, person: person || undefined }
      const { key } = await request<{ id: string; key: string }>('POST', '/admin/keys', body)
      setMade(key)
      setName('')
      setFailure('')
      await refresh()
    } catch (reason) {
      setFailure(reasonOf(reason))
    }
  }

  async function revoke(id: string) {
    try {
      await request('DELETE', `/admin/keys/${id}`)
      await refresh()
    } catch (reason) {
      setFailure(reasonOf(reason))
    }
  }

  return (
    <>
      <form className="bar" onSubmit={make}>
        <Input aria-label="密钥的名称" placeholder="名称，例如：门诊一室" value={name} maxLength={64} onChange={(event) => setName(event.target.value)} />
        <InputNumber aria-label="有效天数" min={1} max={3650} value={days} onChange={setDays} suffix="天" placeholder="不限" />
        <Select
          aria-label="给谁"
          value={person}
          onChange={setPerson}
          options={[{ value: NEW_PERSON, label: '新的人' }, ...persons.map(([value, label]) => ({ value, label }))]}
        />
        <Button type="primary" htmlType="submit" disabled={!name.trim()}>
          新建密钥
        </Button>
      </form>
      <Failure>{failure || error}</Failure>
      <Table heads={['名称', '属于', '新建', '到期', '最近使用', '']}>
        {keys.map((key) => (
          <tr key={key.id} className={key.revoked_at ? 'revoked' : ''}>
            <td>
              {key.name}
              {key.admin && '（管理员）'}
            </td>
            <td>{key.person_name}</td>
            <td>{fullTime(key.created_at)}</td>
            <td>{key.expires_at ? fullTime(key.expires_at) : '不限'}</td>
            <td>{key.used_at ? fullTime(key.used_at) : '没有用过'}</td>
            <td>
              {key.revoked_at ? (
                '已作废'
              ) : (
                <Popconfirm title={`作废密钥“${key.name}”？用它登录的人都要重新登录。`} okText="作废" onConfirm={() => revoke(key.id)}>
                  <Button size="small" danger>
                    作废
                  </Button>
                </Popconfirm>
              )}
            </td>
          </tr>
        ))}
      </Table>
      <Modal open={!!made} title="新的密钥" onCancel={() => setMade('')} footer={<Button type="primary" onClick={() => setMade('')}>我已保存</Button>}>
        <p>请现在保存，以后不再显示。</p>
        <p className="key">
          <code>{made}</code>
          <CopyButton text={made} />
        </p>
      </Modal>
    </>
  )
}

function Table({ heads, children }: { heads: string[]; children: ReactNode }) {
  return (
    <div className="table" role="region" aria-label="表格" tabIndex={0}>
      <table>
        <thead>
          <tr>
            {heads.map((head) => (head ? <th key={head}>{head}</th> : <td key={head} />))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  )
}

const COUNT_NAMES: [name: Exclude<keyof Counts, 'days'>, words: string][] = [
  ['persons', '人'],
  ['conversations', '对话'],
  ['questions', '问题'],
  ['answers', '回答'],
  ['liked', '有用'],
  ['disliked', '没用'],
  ['corrected', '改正'],
  ['failed', '出错'],
]

function CountsView() {
  const [counts, error] = useFetched<Counts>('/admin/counts')
  if (!counts) return <Failure>{error}</Failure>
  return (
    <>
      <dl className="counts">
        {COUNT_NAMES.map(([name, words]) => (
          <div key={name}>
            <dt>{words}</dt>
            <dd>{counts[name]}</dd>
          </div>
        ))}
      </dl>
      <h2>近 30 天每天的问题</h2>
      <Bars days={counts.days} />
      <Table heads={['日期', '问题', '回答', '有用', '没用', '出错']}>
        {[...counts.days].reverse().map((day) => (
          <tr key={day.day}>
            <td>{day.day}</td>
            <td>{day.questions}</td>
            <td>{day.answers}</td>
            <td>{day.liked}</td>
            <td>{day.disliked}</td>
            <td>{day.failed}</td>
          </tr>
        ))}
      </Table>
    </>
  )
}

const BAR_HEIGHT = 100

function Bars({ days }: { days: Day[] }) {
  const most = Math.max(1, ...days.map(({ questions }) => questions))
  return (
    <svg className="bars" viewBox={`0 0 ${days.length * 10} ${BAR_HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={`每天的问题，最多 ${most} 个`}>
      {days.map(({ day, questions }, index) => {
        const height = (questions / most) * BAR_HEIGHT
        return (
          <rect key={day} x={index * 10 + 1} y={BAR_HEIGHT - height} width={8} height={height}>
            <title>{`${day}：${questions}`}</title>
          </rect>
        )
      })}
    </svg>
  )
}

function Releases() {
  const [fetched, error] = useFetched<{ releases: Release[] }>('/admin/releases')
  return (
    <>
      <Failure>{error}</Failure>
      <Table heads={['模型', '回答', '有用', '没用', '改正', '最早', '最近']}>
        {fetched?.releases.map((release) => (
          <tr key={release.model}>
            <td>{release.model}</td>
            <td>{release.answers}</td>
            <td>{release.liked}</td>
            <td>{release.disliked}</td>
            <td>{release.corrected}</td>
            <td>{fullTime(release.first_at)}</td>
            <td>{fullTime(release.last_at)}</td>
          </tr>
        ))}
      </Table>
    </>
  )
}
