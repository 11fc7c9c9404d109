/** The application: who asks, what is open, and what each action does. */

import {
  BulbOutlined,
  DeleteOutlined,
  ExportOutlined,
  LogoutOutlined,
  MenuOutlined,
  MoonOutlined,
  PlusOutlined,
  QuestionCircleOutlined,
  SettingOutlined,
  UserOutlined,
} from '@ant-design/icons'
import { App as Antd, Button, Drawer, Dropdown, type InputRef, Modal } from 'antd'
import { lazy, Suspense, useCallback, useEffect, useMemo, useRef, useState } from 'react'
import { flushSync } from 'react-dom'
import { ApiError, type Asked, type Conversation, type Message, onLoginRequired, reasonOf, request, type Session } from './api'
import { Ask, type Trouble } from './Ask'
import { useDrafts } from './drafts'
import { History, type HistoryActions, inNav } from './History'
import { Login } from './Login'
import { goTo, openedBy, useRoute } from './route'
import { useShortcuts } from './shortcuts'
import { follow, onStream, reconnect } from './stream'
import { Talk, type TalkActions } from './Talk'
import { running, useHistory, useTalks } from './talks'
import { type Chosen, keyOf, modelOf, nextParent, trail } from './tree'
import { useMedia } from './media'
import { Welcome } from './Welcome'
import { SHORTCUTS } from './words'

const Admin = lazy(() => import('./Admin'))
const NARROW = '(max-width: 860px)'
const SEARCH_DELAY_MS = 250
const OTHERS_ANSWER_MS = 3_000
const LOADING_MS = 5_000
const READY_MS = 60_000
const PERSON = 'person'
const NOTHING_CHOSEN: Chosen = {}

/** Leave nothing of one person to the next. */
function startAfresh(): void {
  sessionStorage.clear()
  goTo(null)
  location.reload()
}

export function App({ dark, toggleDark }: { dark: boolean; toggleDark: () => void }) {
  const { message, modal } = Antd.useApp()
  const { conversation: opened, admin } = useRoute()
  const [session, setSession] = useState<Session | null>(null)
  const [needsLogin, setNeedsLogin] = useState(false)
  const [failure, setFailure] = useState('')
  const [picked, setPicked] = useState<string[]>([])
  const [sending, setSending] = useState<string[]>([])
  const [troubles, setTroubles] = useState<Record<string, Trouble | null>>({})
  const [showsKeys, setShowsKeys] = useState(false)
  const narrow = useMedia(NARROW)
  const [drawer, setDrawer] = useState(false)
  const [aside, setAside] = useState(true)
  const searchInput = useRef<InputRef>(null)
  const { talks, chosen, load, put, choose, forget } = useTalks()
  const { conversations, more, search, setSearch, refresh, extend } = useHistory()
  const { drafts, write, restore, move, clear } = useDrafts()

  const talk = opened ? talks[opened] : undefined
  const choice = (opened && chosen[opened]) || NOTHING_CHOSEN
  const shown = talk ? trail(talk.messages, choice) : []
  const answering = useMemo(() => (talk ? running(talk.messages) : []), [talk])
  const draftKey = opened ?? ''

  const fail = useCallback(
    (error: unknown) => {
      if (!(error instanceof ApiError && error.code === 'login_required')) message.error(reasonOf(error))
    },
    [message],
  )

  const enter = useCallback(async () => {
    try {
      const found = await request<Session>('GET', '/session')
      const last = sessionStorage.getItem(PERSON)
      if (last && last !== found.person.id) return startAfresh()
      sessionStorage.setItem(PERSON, found.person.id)
      setSession(found)
      setNeedsLogin(false)
    } catch (error) {
      setFailure(reasonOf(error))
    }
  }, [])

  const open = useCallback(
    async (id: string) => {
      try {
        await load(id)
      } catch (error) {
        fail(error)
        if (error instanceof ApiError && error.status === 404 && openedBy(location.hash).conversation === id) goTo(null)
      }
    },
    [load, fail],
  )

  /** Fetch again what may have changed elsewhere; without a network, the next chance will do. */
  const catchUp = useCallback(() => {
    refresh().catch(() => {})
    const { conversation } = openedBy(location.hash)
    if (conversation) load(conversation).catch(() => {})
  }, [refresh, load])

  useEffect(() => {
    onLoginRequired(() => setNeedsLogin(true))
    enter()
  }, [enter])

  const personId = session?.person.id
  useEffect(() => {
    if (!personId) return
    const timer = setTimeout(() => refresh().catch(fail), search ? SEARCH_DELAY_MS : 0)
    return () => clearTimeout(timer)
  }, [personId, search, refresh, fail])

  useEffect(() => {
    if (personId && opened) open(opened)
  }, [personId, opened, open])

  useEffect(() => follow(answering), [answering])

  useEffect(() => {
    const end = (conversation: string, answer: Message) => {
      put({ id: conversation }, [answer])
      refresh().catch(() => {})
    }
    onStream(end, catchUp)
  }, [put, refresh, catchUp])

  useEffect(() => {
    const wake = () => {
      if (document.visibilityState !== 'visible' || !session) return
      reconnect()
      enter() // another tab may have let somebody else in
      catchUp()
    }
    const events = ['focus', 'online', 'visibilitychange']
    for (const event of events) window.addEventListener(event, wake)
    return () => {
      for (const event of events) window.removeEventListener(event, wake)
    }
  }, [session, enter, catchUp])

  const othersAnswer = conversations.some(({ id, answering }) => answering.length > 0 && id !== opened)
  useEffect(() => {
    if (!othersAnswer) return
    const timer = setInterval(() => refresh().catch(() => {}), OTHERS_ANSWER_MS)
    return () => clearInterval(timer)
  }, [othersAnswer, refresh])

  const ready = session?.ready ?? true
  useEffect(() => {
    if (!personId) return
    const look = () =>
      request<Pick<Session, 'ready' | 'models'>>('GET', '/status').then(
        (status) => setSession((old) => old && { ...old, ...status }),
        () => {},
      )
    const timer = setInterval(look, ready ? READY_MS : LOADING_MS)
    return () => clearInterval(timer)
  }, [personId, ready])

  const title = needsLogin ? undefined : talk?.title
  useEffect(() => {
    document.title = title ? `${title} · 杏林` : '杏林 · 医疗问答'
  }, [title])

  const served = session?.models.map(({ id }) => id) ?? []
  const stillServed = picked.filter((id) => served.includes(id))
  const asked = stillServed.length > 0 ? stillServed : served.slice(0, 1)

  /** Send a question into the open conversation; whatever is opened meanwhile stays open. */
  async function ask(text: string, parent: string | null): Promise<boolean> {
    if (sending.includes(draftKey)) return false
    setSending((old) => [...old, draftKey])
    setTroubles((old) => ({ ...old, [draftKey]: null }))
    try {
      const models = served.length > 1 ? asked : undefined
      const reply = await request<Asked>('POST', '/questions', { conversation: opened, parent, text, models })
      const { conversation, question, answers } = reply
      put(conversation, [question, ...answers])
      choose(conversation.id, { [keyOf(parent)]: question.id, [question.id]: answers[0]!.id })
      if (openedBy(location.hash).conversation === opened) {
        move(draftKey, conversation.id)
        goTo(conversation.id)
      }
      refresh().catch(fail)
      return true
    } catch (error) {
      if (error instanceof ApiError && error.code === 'login_required') return false
      const wait = error instanceof ApiError ? error.retryAfter : 0
      setTroubles((old) => ({ ...old, [draftKey]: { message: reasonOf(error), until: wait && Date.now() + wait * 1000 } }))
      if (error instanceof ApiError && error.status === 409) catchUp()
      return false
    } finally {
      setSending((old) => old.filter((key) => key !== draftKey))
    }
  }

  async function send(text: string) {
    if (sending.includes(draftKey)) return
    write(draftKey, '')
    if (!(await ask(text, nextParent(shown)))) restore(draftKey, text)
  }

  /** Answer a question once more, by the model of that name while it is served. */
  async function answerAgain(question: string, model?: string): Promise<void> {
    try {
      const { answers } = await request<{ answers: Message[] }>('POST', `/questions/${question}/answers`, { model })
      put({ id: opened! }, answers)
      choose(opened!, { [question]: answers[0]!.id })
    } catch (error) {
      if (model && error instanceof ApiError && error.code === 'model_not_found') return answerAgain(question)
      fail(error)
    }
  }

  async function stop() {
    try {
      const stopped = answering.map((id) => request<Message>('POST', `/answers/${id}/stop`))
      put({ id: opened! }, await Promise.all(stopped))
      refresh().catch(fail)
    } catch (error) {
      fail(error)
    }
  }

  const talkActions: TalkActions = {
    edit: (question, text) => ask(text, question.parent),
    answer: (question) => answerAgain(question.id),
    again: (answer) => answerAgain(answer.parent!, served.find((id) => id === modelOf(answer))),
    choose: (next) => choose(opened!, next),
    rate: async (answer, feedback) => {
      try {
        put({ id: opened! }, [await request<Message>('PUT', `/answers/${answer.id}/feedback`, feedback)])
        if (feedback.correction) message.success('已保存您的改正，谢谢。')
        else if (feedback.liked !== undefined && feedback.liked !== null) message.success('谢谢您的反馈。')
      } catch (error) {
        fail(error)
      }
    },
  }

  async function change(id: string, body: { title?: string; pinned?: boolean }) {
    try {
      put(await request<Conversation>('PATCH', `/conversations/${id}`, body), [])
      await refresh()
    } catch (error) {
      fail(error)
    }
  }

  const historyActions: HistoryActions = {
    rename: (id, title) => change(id, { title }),
    pin: (id, pinned) => change(id, { pinned }),
    remove: async (id) => {
      try {
        await request('DELETE', `/conversations/${id}`)
        if (openedBy(location.hash).conversation === id) goTo(null)
        forget(id)
        write(id, '')
        await refresh()
      } catch (error) {
        fail(error)
      }
    },
  }

  const removeAll = () =>
    modal.confirm({
      title: '删除您的全部对话？',
      content: '所有对话和反馈都会删除，无法恢复。可以先导出一份。',
      okText: '全部删除',
      okButtonProps: { danger: true },
      onOk: async () => {
        try {
          await request('DELETE', '/conversations')
          goTo(null)
          forget()
          clear()
          await refresh()
          message.success('您的对话已全部删除。')
        } catch (error) {
          fail(error)
        }
      },
    })

  async function leave(path: '/session' | '/sessions') {
    try {
      await request('DELETE', path)
    } catch (error) {
      return fail(error)
    }
    startAfresh()
  }

  useShortcuts({
    search: () => {
      flushSync(() => (narrow ? setDrawer(true) : setAside(true)))
      searchInput.current?.focus()
    },
    fresh: () => goTo(null),
    stop: () => {
      if (answering.length > 0) stop()
    },
    help: () => setShowsKeys(true),
  })

  if (!session && needsLogin) return <Login onEnter={enter} />
  if (!session) {
    return (
      <main className="opening">
        {failure ? (
          <>
            <p role="alert">{failure}</p>
            <Button onClick={enter}>再试一次</Button>
          </>
        ) : (
          <p>正在打开</p>
        )}
      </main>
    )
  }
  const { person, page, models, limits } = session

  const menu = [
    { key: 'export', icon: <ExportOutlined aria-hidden />, label: <a href="/api/export" download>导出我的全部对话</a> },
    { key: 'erase', icon: <DeleteOutlined aria-hidden />, danger: true, label: '删除我的全部对话', onClick: removeAll },
    { key: 'keys', icon: <QuestionCircleOutlined aria-hidden />, label: '快捷键', onClick: () => setShowsKeys(true) },
    ...(person.admin
      ? [{ key: 'admin', icon: <SettingOutlined aria-hidden />, label: '管理', onClick: () => (location.hash = '#/admin') }]
      : []),
    ...(person.local
      ? []
      : [
          { type: 'divider' as const, key: 'line' },
          { key: 'leave', icon: <LogoutOutlined aria-hidden />, label: '退出', onClick: () => leave('/session') },
          { key: 'leave-all', icon: <LogoutOutlined aria-hidden />, label: '退出所有设备', onClick: () => leave('/sessions') },
        ]),
  ]

  const history = (
    <History
      {...{ conversations, opened, search, searchInput, more }}
      leaf={shown.at(-1)?.id}
      onSearch={setSearch}
      onMore={() => extend().catch(fail)}
      onOpen={() => setDrawer(false)}
      actions={historyActions}
      footer={
        <Dropdown menu={{ items: menu }} trigger={['click']} placement="topLeft" getPopupContainer={inNav}>
          <Button type="text" className="person" icon={<UserOutlined aria-hidden />}>
            {person.local ? '我的数据与设置' : person.name}
          </Button>
        </Dropdown>
      }
    />
  )

  return (
    <div className="frame">
      {narrow ? (
        <Drawer open={drawer} onClose={() => setDrawer(false)} placement="left" size={300} title="杏林" styles={{ body: { padding: 0 } }}>
          {history}
        </Drawer>
      ) : (
        aside && <aside>{history}</aside>
      )}
      <div className="page">
        <header>
          <Button
            type="text"
            icon={<MenuOutlined aria-hidden />}
            aria-label="历史对话"
            aria-expanded={narrow ? drawer : aside}
            onClick={() => (narrow ? setDrawer(true) : setAside(!aside))}
          />
          <h1>
            <img src="/apricot.svg" alt="" width="26" height="26" />
            {page.title}
            <small>{page.subtitle}</small>
          </h1>
          <div className="title">{(admin || title) && <h2>{admin ? '管理' : title}</h2>}</div>
          {narrow && <Button type="text" icon={<PlusOutlined aria-hidden />} aria-label="新对话" onClick={() => goTo(null)} />}
          <Button
            type="text"
            icon={dark ? <BulbOutlined aria-hidden /> : <MoonOutlined aria-hidden />}
            aria-label={dark ? '换成浅色' : '换成深色'}
            title={dark ? '换成浅色' : '换成深色'}
            onClick={toggleDark}
          />
        </header>
        {admin && person.admin ? (
          <main className="admin">
            <Suspense>
              <Admin />
            </Suspense>
          </main>
        ) : (
          <main>
            <p className="generated">{page.generated}</p>
            {!session.ready && (
              <p className="loading" role="status">
                模型正在加载，通常需要一两分钟；可以先写好问题。
              </p>
            )}
            {talk ? (
              <Talk key={talk.id} talk={talk} chosen={choice} limit={limits.message_characters} actions={talkActions} />
            ) : (
              <Welcome examples={opened ? [] : page.examples} loading={!!opened} onExample={(text) => ask(text, null)} />
            )}
            <div className="foot">
              <Ask
                key={draftKey}
                draft={drafts[draftKey] ?? ''}
                onDraft={(text) => write(draftKey, text)}
                onSend={send}
                onStop={stop}
                answering={answering.length > 0}
                sending={sending.includes(draftKey) || (!!opened && !talk)}
                placeholder={page.placeholder}
                limit={limits.message_characters}
                trouble={troubles[draftKey] ?? null}
                models={models}
                asked={asked}
                onAsked={setPicked}
              />
              <p className="disclaimer" role="note">
                {page.disclaimer}
              </p>
            </div>
          </main>
        )}
      </div>
      <Modal open={showsKeys} onCancel={() => setShowsKeys(false)} title="快捷键" footer={null}>
        <dl className="keys">
          {SHORTCUTS.map(([keys, what]) => (
            <div key={keys}>
              <dt>
                <kbd>{keys}</kbd>
              </dt>
              <dd>{what}</dd>
            </div>
          ))}
        </dl>
      </Modal>
      {needsLogin && <Login onEnter={() => enter().then(catchUp)} />}
    </div>
  )
}
