/** The history: search, groups by date, and what can be done to a conversation. */

import { DeleteOutlined, EditOutlined, ExportOutlined, MoreOutlined, PlusOutlined, PrinterOutlined, PushpinFilled, PushpinOutlined } from '@ant-design/icons'
import { App, Button, Dropdown, Input, type InputRef } from 'antd'
import { type ReactNode, type Ref, useState } from 'react'
import type { Conversation } from './api'
import { goTo, linkTo } from './route'
import { fullTime, groupOf, shortTime } from './words'

export interface HistoryActions {
  rename: (id: string, title: string) => void
  pin: (id: string, pinned: boolean) => void
  remove: (id: string) => void
}

interface Props {
  conversations: Conversation[]
  opened: string | null
  leaf: string | undefined // the end of the branch that is shown of the opened one
  search: string
  onSearch: (text: string) => void
  searchInput: Ref<InputRef>
  more: boolean
  onMore: () => void
  onOpen: () => void
  actions: HistoryActions
  footer: ReactNode
}

export function History({ conversations, opened, leaf, search, onSearch, searchInput, more, onMore, onOpen, actions, footer }: Props) {
  const now = Date.now()
  const headingOf = (conversation: Conversation) => (search ? '搜索结果' : groupOf(conversation, now))
  const headings = [...new Set(conversations.map(headingOf))]
  const fresh = () => {
    goTo(null)
    onOpen()
  }
  return (
    <nav className="history" aria-label="历史对话">
      <Button className="fresh" icon={<PlusOutlined aria-hidden />} onClick={fresh} size="large" block>
        新对话
      </Button>
      <Input
        ref={searchInput}
        type="search"
        allowClear
        aria-label="搜索对话"
        placeholder="搜索对话"
        value={search}
        onChange={(event) => onSearch(event.target.value)}
      />
      <div className="conversations">
        {headings.map((heading) => (
          <section key={heading} aria-label={heading}>
            <h2>{heading}</h2>
            <ul>
              {conversations.filter((conversation) => headingOf(conversation) === heading).map((conversation) => (
                <Item key={conversation.id} {...{ conversation, now, actions, onOpen }} current={conversation.id === opened} leaf={leaf} />
              ))}
            </ul>
          </section>
        ))}
        {conversations.length === 0 && <p className="quiet">{search ? '没有找到相符的对话。' : '还没有对话。'}</p>}
        {more && (
          <Button type="text" block onClick={onMore}>
            更早的对话
          </Button>
        )}
      </div>
      {footer}
    </nav>
  )
}

/** Popups belong to the landmark that they are of. */
export const inNav = (trigger: HTMLElement): HTMLElement => trigger.closest('nav')!

interface ItemProps {
  conversation: Conversation
  now: number
  current: boolean
  leaf: string | undefined
  actions: HistoryActions
  onOpen: () => void
}

function Item({ conversation, now, current, leaf, actions, onOpen }: ItemProps) {
  const { id, title, pinned, updated_at, answering, match } = conversation
  const { modal } = App.useApp()
  const [renaming, setRenaming] = useState(false)

  const items = [
    { key: 'rename', icon: <EditOutlined aria-hidden />, label: '改名', onClick: () => setRenaming(true) },
    {
      key: 'pin',
      icon: pinned ? <PushpinFilled aria-hidden /> : <PushpinOutlined aria-hidden />,
      label: pinned ? '取消置顶' : '置顶',
      onClick: () => actions.pin(id, !pinned),
    },
    {
      key: 'export',
      icon: <ExportOutlined aria-hidden />,
      label: (
        <a href={`/api/conversations/${id}/export${current && leaf ? `?leaf=${leaf}` : ''}`} download>
          导出 Markdown
        </a>
      ),
    },
    ...(current ? [{ key: 'print', icon: <PrinterOutlined />, label: '打印', onClick: () => window.print() }] : []),
    {
      key: 'delete',
      icon: <DeleteOutlined aria-hidden />,
      danger: true,
      label: '删除',
      onClick: () =>
        modal.confirm({
          title: '删除这个对话？',
          content: `“${title}”删除后无法恢复。`,
          okText: '删除',
          okButtonProps: { danger: true },
          onOk: () => actions.remove(id),
        }),
    },
  ]

  if (renaming) {
    const finish = (value: string) => {
      setRenaming(false)
      if (value.trim() && value.trim() !== title) actions.rename(id, value.trim())
    }
    return (
      <li>
        <Input
          autoFocus
          aria-label="对话名称"
          defaultValue={title}
          maxLength={100}
          onFocus={(event) => event.target.select()}
          onBlur={(event) => finish(event.target.value)}
          onKeyDown={(event) => {
            if (event.key === 'Escape') finish(title)
            if (event.key === 'Enter' && !event.nativeEvent.isComposing) finish(event.currentTarget.value)
            event.stopPropagation()
          }}
        />
      </li>
    )
  }
  return (
    <li className={current ? 'current' : ''}>
      <a href={linkTo(id)} onClick={onOpen} aria-current={current ? 'page' : undefined} title={`${title}\n${fullTime(updated_at)}`}>
        <span className="title">
          {pinned && <PushpinFilled aria-label="已置顶" />}
          {title}
        </span>
        {answering.length > 0 ? <span className="answering">正在回答</span> : <time>{shortTime(updated_at, now)}</time>}
        {match && <span className="match">{match}</span>}
      </a>
      <Dropdown menu={{ items }} trigger={['click']} placement="bottomRight" getPopupContainer={inNav}>
        <Button type="text" size="small" icon={<MoreOutlined aria-hidden />} aria-label={`“${title}”的操作`} />
      </Dropdown>
    </li>
  )
}
