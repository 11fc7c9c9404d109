/** A question: its branches, and its edit, which begins a new branch. */

import { EditOutlined } from '@ant-design/icons'
import { Bubble } from '@ant-design/x'
import { Button } from 'antd'
import { useState } from 'react'
import type { Message } from './api'
import { Branches } from './Branches'
import { CopyButton } from './CopyButton'
import { Grow } from './Grow'

interface Props {
  question: Message
  siblings: Message[]
  busy: boolean
  onEdit: (text: string) => Promise<boolean>
  onChoose: (message: Message) => void
}

export function Question({ question, siblings, busy, onEdit, onChoose }: Props) {
  const [editing, setEditing] = useState(false)
  if (editing) return <Editor text={question.content} busy={busy} onEdit={onEdit} onClose={() => setEditing(false)} />
  return (
    <article className="question" aria-label="问题">
      <Bubble
        placement="end"
        shape="corner"
        content={question.content}
        footer={
          <div className="actions">
            <Branches name="问题" shown={question} siblings={siblings} onChoose={onChoose} />
            <CopyButton text={question.content} />
            <Button
              type="text"
              size="small"
              icon={<EditOutlined aria-hidden />}
              aria-label="修改问题"
              title="修改问题"
              disabled={busy}
              onClick={() => setEditing(true)}
            />
          </div>
        }
      />
    </article>
  )
}

function Editor({ text, busy, onEdit, onClose }: Pick<Props, 'busy' | 'onEdit'> & { text: string; onClose: () => void }) {
  const [draft, setDraft] = useState(text)
  const submit = async () => {
    if (await onEdit(draft)) onClose()
  }
  return (
    <div className="editor">
      <Grow autoFocus aria-label="修改问题" value={draft} onChange={(event) => setDraft(event.target.value)} />
      <div className="actions">
        <Button onClick={onClose}>取消</Button>
        <Button type="primary" disabled={!draft.trim() || busy} onClick={submit}>
          提问
        </Button>
      </div>
    </div>
  )
}
